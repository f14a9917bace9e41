-- What IntelMQ Mailgen documents as its database, in our own words and as an installation of years has it: `extra` json, `asn`
-- integer, foreign keys that do not cascade, an exception for every directive that it cannot read. It goes over events.sql.

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
    (recipient_address, template_name, notification_format, event_data_format, aggregate_identifier);
CREATE INDEX directives_events_id_idx ON directives (events_id);
CREATE INDEX directives_sent_id_idx ON directives (sent_id);

CREATE FUNCTION events_insert_directives_for_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    directive json;
BEGIN
    FOR directive IN SELECT json_array_elements(NEW.extra -> 'certbund' -> 'source_directives') LOOP
        CONTINUE WHEN (directive ->> 'notification_interval')::int < 0;
        INSERT INTO directives (events_id, medium, recipient_address, template_name, notification_format,
                                event_data_format, aggregate_identifier, notification_interval, endpoint)
        SELECT NEW.id, directive ->> 'medium', directive ->> 'recipient_address', directive ->> 'template_name',
               directive ->> 'notification_format', directive ->> 'event_data_format',
               (SELECT coalesce(array_agg(ARRAY[key, value] ORDER BY key), '{}')
                  FROM json_each_text(directive -> 'aggregate_identifier')),
               (directive ->> 'notification_interval')::int * interval '1 second', 'source';
    END LOOP;
    RETURN NEW;
END $$;
CREATE TRIGGER events_insert_directive_trigger AFTER INSERT ON events
    FOR EACH ROW EXECUTE FUNCTION events_insert_directives_for_row();

ALTER TABLE events OWNER TO eventdb_owner;
ALTER TABLE directives OWNER TO eventdb_owner;
ALTER TABLE sent OWNER TO eventdb_owner;
ALTER TABLE ticket_day OWNER TO eventdb_owner;
