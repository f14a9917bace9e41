-- What IntelMQ Mailgen documents as its database, in our own words and as an installation of years
-- has it: `extra` json, `asn` integer, foreign keys that do not cascade, an older grouping index,
-- none on what was sent or is pending, and an exception for every directive that it cannot read.
-- Functions and trigger have the names they had in every version. It goes over events.sql.

ALTER TABLE events ALTER extra TYPE json USING extra::json, ALTER "source.asn" TYPE integer;

CREATE TYPE ip_endpoint AS ENUM ('source', 'destination');
CREATE SEQUENCE intelmq_ticket_seq MINVALUE 10000001;
ALTER SEQUENCE intelmq_ticket_seq OWNER TO eventdb_send_notifications;
CREATE TABLE ticket_day (initialized_for_day date);
INSERT INTO ticket_day VALUES ('2026-11-20');
CREATE TABLE sent (
    id             bigserial PRIMARY KEY,
    intelmq_ticket varchar(18) UNIQUE NOT NULL,
    sent_at        timestamptz
);
CREATE TABLE directives (
    id                    bigserial PRIMARY KEY,
    events_id             bigint NOT NULL REFERENCES events (id),
    sent_id               bigint REFERENCES sent (id),
    medium                varchar(100) NOT NULL,
    recipient_address     varchar(100) NOT NULL,
    template_name         varchar(100) NOT NULL,
    notification_format   varchar(100) NOT NULL,
    event_data_format     varchar(100) NOT NULL,
    aggregate_identifier  text[][],
    notification_interval interval NOT NULL,
    endpoint              ip_endpoint NOT NULL,
    inserted_at           timestamptz NOT NULL DEFAULT current_timestamp
);
CREATE INDEX directives_grouping_idx ON directives
    (recipient_address, template_name, notification_format, event_data_format,
     aggregate_identifier);
CREATE INDEX directives_events_id_idx ON directives (events_id);

CREATE FUNCTION json_object_as_text_array(obj json) RETURNS text[][]
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    pair record;
    result text[][] := '{}';
BEGIN
    FOR pair IN SELECT * FROM json_each_text(obj) ORDER BY key LOOP
        result := result || ARRAY[ARRAY[pair.key, pair.value]];
    END LOOP;
    RETURN result;
END $$;
CREATE FUNCTION insert_directive(event_id bigint, directive json, endpoint ip_endpoint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF (directive ->> 'notification_interval')::int < 0 THEN
        RETURN;
    END IF;
    INSERT INTO directives (events_id, medium, recipient_address, template_name,
                            notification_format, event_data_format, aggregate_identifier,
                            notification_interval, endpoint)
    SELECT event_id, directive ->> 'medium', directive ->> 'recipient_address',
           directive ->> 'template_name', directive ->> 'notification_format',
           directive ->> 'event_data_format',
           json_object_as_text_array(directive -> 'aggregate_identifier'),
           (directive ->> 'notification_interval')::int * interval '1 second', endpoint;
END $$;
CREATE FUNCTION directives_from_extra(event_id bigint, extra json) RETURNS void LANGUAGE sql AS $$
    SELECT insert_directive(event_id, directive, 'source')
      FROM json_array_elements(extra -> 'certbund' -> 'source_directives') directive
$$;
CREATE FUNCTION events_insert_directives_for_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM directives_from_extra(NEW.id, NEW.extra);
    RETURN NEW;
END $$;
CREATE TRIGGER events_insert_directive_trigger AFTER INSERT ON events
    FOR EACH ROW EXECUTE FUNCTION events_insert_directives_for_row();

ALTER TABLE events OWNER TO eventdb_owner;
ALTER TABLE directives OWNER TO eventdb_owner;
ALTER TABLE sent OWNER TO eventdb_owner;
ALTER TABLE ticket_day OWNER TO eventdb_owner;
