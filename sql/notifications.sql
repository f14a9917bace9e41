-- The notification part of an IntelMQ event database: what is to be mailed, and what was.
--
--     psql -v ON_ERROR_STOP=1 -d DATABASE -f sql/notifications.sql      (as a superuser)
--
-- Compatible with the schema of IntelMQ Mailgen object by object, so that Mailgen's and Fody's queries keep working.
-- It runs on a database that has nothing but the table `events`, over one that Mailgen made, and any number of times;
-- no row of `events`, `directives`, `sent` or `ticket_day` is changed or removed. What is different from Mailgen:
--
--   * An event is never lost to a bad directive: the directive goes to `directives_rejected` with its reason, the
--     event is stored. What Mailgen takes is taken, with the very same row; what Mailgen skips without a word (a missing
--     key), or aborts the INSERT for, is recorded. Stricter than Mailgen in two things: a list or an object where a plain
--     value belongs, and an empty `medium` or `recipient_address`, are recorded too.
--   * Two partial indexes (directives_pending_idx, directives_last_sent_idx).
--   * The roles have no CREATEROLE: in PostgreSQL up to 15 that right leads to every other role but superusers.
--     Roles that exist are left as they are; README.md tells how to take it from them.
--
-- Read on: roles, tables, upgrades of older Mailgen databases, indexes, rights, trigger.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- Roles belong to the whole cluster, while everything below belongs to one database. So this is a transaction of its
-- own: two databases of one cluster may be set up at the same time, and the second waits here for the first but shortly.
DO $do$
DECLARE
    role_name text;
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'role % is no superuser; run this script as one, for example through "sudo -u postgres psql"', current_user;
    END IF;

    FOREACH role_name IN ARRAY ARRAY['eventdb_owner', 'eventdb_insert', 'eventdb_send_notifications'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = role_name);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOINHERIT NOCREATEDB NOCREATEROLE', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- made by the other session between the look and the deed
        END;
    END LOOP;
END
$do$;

BEGIN;

-- Two runs in the same database wait for each other here instead of failing somewhere in the middle.
DO $do$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('outbox for intelmq: notifications.sql'));
END
$do$;

-- Everything lives in the schema that holds `events`, which need not be `public`.
DO $do$
BEGIN
    IF to_regclass('events') IS NULL THEN
        RAISE EXCEPTION 'this database has no table "events"; load IntelMQ''s script, or sql/events.sql, first';
    END IF;
    PERFORM set_config('search_path', quote_ident(nspname), true)
       FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
      WHERE pg_class.oid = to_regclass('events');
END
$do$;


-- Tables ------------------------------------------------------------------------------------------------------------

DO $do$
BEGIN
    IF to_regtype('ip_endpoint') IS NULL THEN
        CREATE TYPE ip_endpoint AS ENUM ('source', 'destination');
    END IF;
END
$do$;

-- The number in a ticket, started anew every day by whoever draws the first ticket of the day. Restarting takes the
-- owner, hence the owner is not eventdb_owner. Starting at 10000001 gives numbers of eight digits.
CREATE SEQUENCE IF NOT EXISTS intelmq_ticket_seq MINVALUE 10000001;
ALTER SEQUENCE intelmq_ticket_seq OWNER TO eventdb_send_notifications;

-- One row: the day for which the sequence was last restarted.
CREATE TABLE IF NOT EXISTS ticket_day (
    initialized_for_day date
);
INSERT INTO ticket_day (initialized_for_day)
     SELECT date '2016-01-01' WHERE NOT EXISTS (SELECT FROM ticket_day);

-- One row a mail. A row without sent_at stands for directives that shall never be mailed.
CREATE TABLE IF NOT EXISTS sent (
    id             bigserial PRIMARY KEY,
    intelmq_ticket varchar(18) UNIQUE NOT NULL,
    sent_at        timestamptz
);

-- One row for each notification that somebody is to get about an event; pending as long as sent_id is NULL.
-- Rows that agree in all of recipient_address … aggregate_identifier go into one mail.
CREATE TABLE IF NOT EXISTS directives (
    id                    bigserial PRIMARY KEY,
    events_id             bigint NOT NULL,
    sent_id               bigint,
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

-- What an event asked for and could not be taken into `directives`, with the reason, for the operator. The text of the
-- JSON is kept letter by letter (json, not jsonb: it may hold what jsonb refuses). `directive` is NULL where not even
-- the list of directives could be read; the event's `extra` still holds it.
CREATE TABLE IF NOT EXISTS directives_rejected (
    id          bigserial PRIMARY KEY,
    events_id   bigint NOT NULL,
    endpoint    ip_endpoint NOT NULL,
    directive   json,
    reason      text NOT NULL,
    inserted_at timestamptz NOT NULL DEFAULT current_timestamp
);


-- Older Mailgen databases -------------------------------------------------------------------------------------------

DO $do$
DECLARE
    missing text;
BEGIN
    -- The oldest have no inserted_at. The event's own time is the best guess for rows that are there already.
    IF NOT EXISTS (SELECT FROM pg_attribute
                    WHERE attrelid = 'directives'::regclass AND attname = 'inserted_at' AND NOT attisdropped) THEN
        ALTER TABLE directives ADD COLUMN inserted_at timestamptz;
        UPDATE directives SET inserted_at = coalesce("time.observation", current_timestamp)
          FROM events WHERE events.id = events_id;
        ALTER TABLE directives
            ALTER COLUMN inserted_at SET DEFAULT current_timestamp,
            ALTER COLUMN inserted_at SET NOT NULL;
    END IF;

    SELECT string_agg(wanted, ', ') INTO missing
      FROM unnest(ARRAY['id', 'events_id', 'sent_id', 'medium', 'recipient_address', 'template_name',
                        'notification_format', 'event_data_format', 'aggregate_identifier',
                        'notification_interval', 'endpoint']) AS wanted
     WHERE NOT EXISTS (SELECT FROM pg_attribute
                        WHERE attrelid = 'directives'::regclass AND attname = wanted AND NOT attisdropped);
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'the table "directives" is older than this script can bring up to date, it lacks: %', missing;
    END IF;
END
$do$;

-- Foreign keys, each ON DELETE CASCADE: an event that is expired takes its directives along. Mailgen before 1.4 had them
-- without, and they are replaced. A partitioned `events` without a unique `id` cannot be referred to; then there is none.
DO $do$
DECLARE
    wanted record;
    old    record;
BEGIN
    FOR wanted IN
        SELECT * FROM (VALUES ('directives', 'events_id', 'events'),
                              ('directives', 'sent_id', 'sent'),
                              ('directives_rejected', 'events_id', 'events')) AS t (child, col, parent)
    LOOP
        SELECT conname, confdeltype INTO old
          FROM pg_constraint
          JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
         WHERE conrelid = wanted.child::regclass AND confrelid = wanted.parent::regclass
           AND contype = 'f' AND attname = wanted.col AND array_length(conkey, 1) = 1
         ORDER BY confdeltype = 'c' DESC
         LIMIT 1;
        CONTINUE WHEN old.confdeltype = 'c';
        IF old.conname IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %I DROP CONSTRAINT %I', wanted.child, old.conname);
        END IF;
        BEGIN
            EXECUTE format('ALTER TABLE %I ADD CONSTRAINT %I FOREIGN KEY (%I) REFERENCES %I (id) ON DELETE CASCADE',
                           wanted.child, wanted.child || '_' || wanted.col || '_fkey', wanted.col, wanted.parent);
        EXCEPTION WHEN invalid_foreign_key OR feature_not_supported OR wrong_object_type THEN
            RAISE WARNING 'rows of "%" will outlive what their % names: %', wanted.child, wanted.col, SQLERRM;
        END;
    END LOOP;
END
$do$;


-- Indexes -----------------------------------------------------------------------------------------------------------
-- On a table of many million rows each of them takes minutes in which nobody can write: updates/large-tables.sql
-- builds them beforehand without a lock, and they are then met here as existing.

CREATE INDEX IF NOT EXISTS directives_grouping_inserted_at_idx
    ON directives (recipient_address, template_name, notification_format, event_data_format,
                   aggregate_identifier, inserted_at);
CREATE INDEX IF NOT EXISTS directives_events_id_idx ON directives (events_id);
CREATE INDEX IF NOT EXISTS directives_sent_id_idx ON directives (sent_id);

-- The pending ones, and only they, so that looking for them costs the same after ten years of mails. A query uses it
-- only if it spells the three conditions with literals, as here, not with parameters.
CREATE INDEX IF NOT EXISTS directives_pending_idx
    ON directives (id)
    WHERE sent_id IS NULL AND medium = 'email' AND endpoint = 'source';

-- The newest mail about a group of directives (ORDER BY sent_id DESC LIMIT 1) is one step down this index, however often the
-- group was mailed and however many more of it are pending.
CREATE INDEX IF NOT EXISTS directives_last_sent_idx
    ON directives (recipient_address, template_name, notification_format, event_data_format,
                   aggregate_identifier, sent_id)
    WHERE sent_id IS NOT NULL;

CREATE INDEX IF NOT EXISTS directives_rejected_events_id_idx ON directives_rejected (events_id);

-- For Fody, which searches for parts of a recipient_group. Only an index, so a server without pg_trgm (on Debian part of
-- the server package) goes without.
DO $do$
DECLARE
    trgm_schema text;
BEGIN
    IF to_regclass('directives_recipient_group_idx') IS NOT NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_trgm') THEN
        RAISE WARNING 'this server lacks the extension pg_trgm; Fody''s search for recipient groups will be slow';
        RETURN;
    END IF;
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
    SELECT nspname INTO trgm_schema
      FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace WHERE extname = 'pg_trgm';
    EXECUTE format('CREATE INDEX directives_recipient_group_idx ON directives'
                   ' USING gist ((json_object(aggregate_identifier) ->> ''recipient_group'') %I.gist_trgm_ops)',
                   trgm_schema);
END
$do$;


-- Functions ---------------------------------------------------------------------------------------------------------
-- json_object_as_text_array, insert_directive, directives_from_extra and events_insert_directives_for_row have the names
-- and parameters of Mailgen's, and so take their place.

-- Mailgen before 1.3.7 had these two for json; they would be preferred for an argument of that type.
DROP FUNCTION IF EXISTS insert_directive(bigint, json, ip_endpoint);
DROP FUNCTION IF EXISTS directives_from_extra(bigint, json);

-- {"b": 1, "a": null} → {{a,NULL},{b,1}}. Equal objects give equal arrays, since a group is told by it: hence the
-- order by key, in the collation of the database, as in the rows that Mailgen wrote. No key at all gives '{}', not NULL.
-- In PL/pgSQL, which keeps the plan: a function in SQL is planned anew for every directive, at half the cost of the rest.
CREATE OR REPLACE FUNCTION json_object_as_text_array(obj jsonb) RETURNS text[][]
LANGUAGE plpgsql IMMUTABLE
AS $fn$
BEGIN
    RETURN (SELECT coalesce(array_agg(ARRAY[key, value] ORDER BY key), '{}') FROM jsonb_each_text(obj));
END
$fn$;

-- Why a directive cannot become a row, in words for the operator; NULL if it can.
CREATE OR REPLACE FUNCTION directive_problem(directive jsonb) RETURNS text
LANGUAGE plpgsql STABLE
AS $fn$
DECLARE
    -- How the operator, who may never have written JSON by hand, calls what stands there.
    words      constant jsonb := '{"object": "an object", "array": "a list", "string": "text", "number": "a number",
                                   "boolean": "true or false", "null": "null"}';
    key        text;
    value      text;
    kind       text;
    allowed    int;
    identifier jsonb := directive -> 'aggregate_identifier';
BEGIN
    IF jsonb_typeof(directive) <> 'object' THEN
        RETURN format('the directive is %s, not an object', words ->> jsonb_typeof(directive));
    END IF;

    FOREACH key IN ARRAY ARRAY['medium', 'recipient_address', 'template_name', 'notification_format', 'event_data_format']
    LOOP
        value := directive ->> key;
        kind := jsonb_typeof(directive -> key);
        IF kind IS NULL THEN
            RETURN format('%s is missing', key);
        ELSIF kind IN ('null', 'object', 'array') THEN
            RETURN format('%s is %s, not text', key, words ->> kind);
        ELSIF value = '' AND key IN ('medium', 'recipient_address') THEN
            RETURN format('%s is empty', key);
        ELSIF char_length(value) > 100 THEN
            -- Some have widened a column (the type text has no limit at all, atttypmod -1), so ask the table.
            SELECT nullif(atttypmod, -1) - 4 INTO allowed
              FROM pg_attribute WHERE attrelid = 'directives'::regclass AND attname = key;
            IF char_length(value) > allowed THEN
                RETURN format('%s has %s characters, no more than %s fit', key, char_length(value), allowed);
            END IF;
        END IF;
    END LOOP;

    -- Mailgen takes a missing one, or null, for 0.
    value := directive ->> 'notification_interval';
    IF value !~ '^\s*[+-]?0*[0-9]{1,10}\s*$' THEN
        RETURN format('notification_interval is %s, not a whole number of seconds',
                      left((directive -> 'notification_interval')::text, 200));
    ELSIF value::numeric NOT BETWEEN -2147483648 AND 2147483647 THEN
        RETURN format('notification_interval is %s, no more than 2147483647 seconds are possible', value);
    END IF;

    -- A missing one is an empty one.
    IF jsonb_typeof(identifier) <> 'object' THEN
        RETURN format('aggregate_identifier is %s, not an object', words ->> jsonb_typeof(identifier));
    END IF;
    SELECT format('aggregate_identifier has %s for %s, not a plain value', words ->> jsonb_typeof(e.value), to_json(e.key))
      INTO value
      FROM jsonb_each(identifier) AS e
     WHERE jsonb_typeof(e.value) IN ('object', 'array')
     LIMIT 1;
    RETURN value;
END
$fn$;

-- Keeps a directive that cannot be taken. Called while an event is being stored, so this too must never fail.
CREATE OR REPLACE FUNCTION reject_directive(event_id bigint, directive json, endpoint ip_endpoint, reason text) RETURNS void
LANGUAGE plpgsql
AS $fn$
BEGIN
    INSERT INTO directives_rejected (events_id, endpoint, directive, reason)
    VALUES (event_id, endpoint, directive, reason);
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'a directive of event % is lost: %; and it could not be recorded: %', event_id, reason, SQLERRM;
END
$fn$;

-- Turns one directive into a row of `directives`, or of `directives_rejected`. An interval of -1 asks for no
-- notification, and gets none. What still fails here (a condition somebody added to the table, values that are too long
-- for the index) is an exception for the caller.
CREATE OR REPLACE FUNCTION insert_directive(event_id bigint, directive jsonb, endpoint ip_endpoint) RETURNS void
LANGUAGE plpgsql
AS $fn$
DECLARE
    problem text;
BEGIN
    IF btrim(directive ->> 'notification_interval') ~ '^-0*1$' THEN
        RETURN;
    END IF;
    problem := directive_problem(directive);
    IF problem IS NOT NULL THEN
        PERFORM reject_directive(event_id, directive::json, endpoint, problem);
        RETURN;
    END IF;
    INSERT INTO directives (events_id, medium, recipient_address, template_name, notification_format,
                            event_data_format, aggregate_identifier, notification_interval, endpoint)
    VALUES (event_id,
            directive ->> 'medium',
            directive ->> 'recipient_address',
            directive ->> 'template_name',
            directive ->> 'notification_format',
            directive ->> 'event_data_format',
            json_object_as_text_array(directive -> 'aggregate_identifier'),
            coalesce((directive ->> 'notification_interval')::int, 0) * interval '1 second',
            endpoint);
END
$fn$;

-- All directives of an event. Like Mailgen it reads source_directives only: nothing sends mail for the endpoint
-- `destination`, and rows that are never sent would stay pending for ever.
CREATE OR REPLACE FUNCTION directives_from_extra(event_id bigint, extra jsonb) RETURNS void
LANGUAGE plpgsql
AS $fn$
DECLARE
    certbund  jsonb := extra -> 'certbund';
    list      jsonb := certbund -> 'source_directives';
    directive jsonb;
BEGIN
    IF jsonb_typeof(certbund) NOT IN ('object', 'null') THEN
        PERFORM reject_directive(event_id, certbund::json, 'source', 'certbund is not an object');
    ELSIF jsonb_typeof(list) = 'array' THEN
        FOR directive IN SELECT element FROM jsonb_array_elements(list) AS element LOOP
            PERFORM insert_directive(event_id, directive, 'source');
        END LOOP;
    ELSIF jsonb_typeof(list) <> 'null' THEN
        PERFORM reject_directive(event_id, list::json, 'source', 'source_directives is not a list');
    END IF;
END
$fn$;

-- The same for an event at which directives_from_extra failed, each directive on its own, so that one takes no other
-- along. The JSON comes as text: a column of type json may hold what no text in PostgreSQL can, a NUL character (\u0000)
-- or half of a surrogate pair (\udc80, which Python writes for a byte that is no UTF-8), and one of them anywhere in
-- `extra` makes all of it unreadable. So they are masked: \u0000 becomes \ufdd00000, a character that never stands in
-- text followed by the four digits, which leads back to the original by one replacement.
CREATE OR REPLACE FUNCTION directives_from_unruly_extra(event_id bigint, extra text) RETURNS void
LANGUAGE plpgsql
AS $fn$
DECLARE
    -- An even number of backslashes before it: otherwise it is an escaped backslash and a plain "u0000".
    escape   constant text := '(?<!\\)((?:\\\\)*)\\u';
    masked   text := extra;
    certbund json;
    list     json;
    element  json;
BEGIN
    IF strpos(extra, 'certbund') = 0 AND strpos(extra, '\u') = 0 THEN
        RETURN;
    END IF;

    IF strpos(extra, '\u') > 0 THEN
        masked := regexp_replace(masked, escape || '(0000)', '\1\\ufdd0\2', 'g');
        masked := regexp_replace(masked, escape || '(d[89ab]..)(?!\\ud[c-f]..)', '\1\\ufdd0\2', 'gi');
        masked := regexp_replace(masked, '(?<!\\ud[89ab]..)' || escape || '(d[c-f]..)', '\1\\ufdd0\2', 'gi');
    END IF;

    BEGIN
        certbund := masked::json -> 'certbund';
        list := certbund -> 'source_directives';
    EXCEPTION WHEN OTHERS THEN
        PERFORM reject_directive(event_id, NULL, 'source', 'the directives in extra cannot be read: ' || SQLERRM);
        RETURN;
    END;
    IF json_typeof(certbund) NOT IN ('object', 'null') THEN
        PERFORM reject_directive(event_id, replace(certbund::text, '\ufdd0', '\u')::json, 'source',
                                 'certbund is not an object');
        RETURN;
    ELSIF list IS NULL OR json_typeof(list) = 'null' THEN
        RETURN;
    ELSIF json_typeof(list) <> 'array' THEN
        PERFORM reject_directive(event_id, replace(list::text, '\ufdd0', '\u')::json, 'source',
                                 'source_directives is not a list');
        RETURN;
    END IF;

    FOR element IN SELECT e FROM json_array_elements(list) AS e LOOP
        IF strpos(element::text, '\ufdd0') > 0 THEN
            PERFORM reject_directive(event_id, replace(element::text, '\ufdd0', '\u')::json, 'source',
                                     'the directive holds a character that PostgreSQL cannot store'
                                     ' (\u0000, or half of a surrogate pair)');
            CONTINUE;
        END IF;
        BEGIN
            PERFORM insert_directive(event_id, element::jsonb, 'source');
        EXCEPTION WHEN OTHERS THEN
            PERFORM reject_directive(event_id, element, 'source', 'PostgreSQL refused it: ' || SQLERRM);
        END;
    END LOOP;
EXCEPTION WHEN OTHERS THEN
    PERFORM reject_directive(event_id, NULL, 'source', 'the directives in extra could not be taken: ' || SQLERRM);
END
$fn$;

-- What the trigger calls. It runs with the rights of its owner, so that whoever inserts events needs none on
-- `directives`. A cancelled statement (also by a timeout) is not caught: whoever cancelled wants no event.
CREATE OR REPLACE FUNCTION events_insert_directives_for_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $fn$
BEGIN
    IF NEW.extra IS NOT NULL THEN
        BEGIN
            PERFORM directives_from_extra(NEW.id, NEW.extra::jsonb);
        EXCEPTION WHEN OTHERS THEN
            PERFORM directives_from_unruly_extra(NEW.id, NEW.extra::text);
        END;
    END IF;
    RETURN NULL;  -- nobody reads what an AFTER trigger returns
END
$fn$;


-- Owners and rights -------------------------------------------------------------------------------------------------

DO $do$
DECLARE
    events_owner     name;
    directives_owner name;
    object           text;
    id_sequence      text;
    here             text := current_schema();
BEGIN
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO eventdb_owner', here);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO eventdb_insert, eventdb_send_notifications', here);

    -- As with Mailgen, eventdb_owner gets the table, but not away from a plain user: IntelMQ's own user, say, would
    -- lose the right to insert by it. A superuser loses nothing.
    SELECT rolname INTO events_owner
      FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner
     WHERE pg_class.oid = 'events'::regclass AND rolsuper;
    IF events_owner IS NOT NULL THEN
        ALTER TABLE events OWNER TO eventdb_owner;
    END IF;

    FOREACH object IN ARRAY ARRAY['sent', 'directives', 'ticket_day'] LOOP
        IF (SELECT rolsuper FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner WHERE pg_class.oid = object::regclass) THEN
            EXECUTE format('ALTER TABLE %I OWNER TO eventdb_owner', object);
        END IF;
    END LOOP;

    -- The functions act on `directives` for its owner, whoever that is in an installation that grew.
    SELECT rolname INTO directives_owner
      FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner WHERE pg_class.oid = 'directives'::regclass;
    FOREACH object IN ARRAY ARRAY['json_object_as_text_array(jsonb)', 'directive_problem(jsonb)',
                                  'reject_directive(bigint, json, ip_endpoint, text)',
                                  'insert_directive(bigint, jsonb, ip_endpoint)',
                                  'directives_from_extra(bigint, jsonb)', 'directives_from_unruly_extra(bigint, text)',
                                  'events_insert_directives_for_row()'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO %I', object, directives_owner);
    END LOOP;
    EXECUTE format('ALTER TABLE directives_rejected OWNER TO %I', directives_owner);
    -- A function with its owner's rights must not find somebody else's `directives` first.
    EXECUTE format('ALTER FUNCTION events_insert_directives_for_row() SET search_path = %I, pg_temp', here);

    GRANT INSERT ON events TO eventdb_insert;
    id_sequence := pg_get_serial_sequence('events', 'id');
    IF id_sequence IS NOT NULL THEN
        EXECUTE format('GRANT USAGE ON SEQUENCE %s TO eventdb_insert', id_sequence);
    END IF;
    GRANT EXECUTE ON FUNCTION events_insert_directives_for_row() TO eventdb_insert;

    GRANT SELECT ON events TO eventdb_send_notifications;
    GRANT SELECT, UPDATE ON directives, ticket_day TO eventdb_send_notifications;
    GRANT SELECT, INSERT ON sent TO eventdb_send_notifications;
    EXECUTE format('GRANT USAGE ON SEQUENCE %s TO eventdb_send_notifications', pg_get_serial_sequence('sent', 'id'));
    -- Looking at the rejected ones and clearing away what is dealt with.
    GRANT SELECT, DELETE ON directives_rejected TO eventdb_send_notifications;
END
$do$;


-- Trigger -----------------------------------------------------------------------------------------------------------

DO $do$
DECLARE
    other record;
BEGIN
    -- Whatever its name, another trigger that writes to `directives` would have each directive mailed twice.
    FOR other IN
        SELECT tgname, proname
          FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
         WHERE tgrelid = 'events'::regclass AND NOT tgisinternal
           AND tgname <> 'events_insert_directive_trigger'
           AND (proname = 'events_insert_directives_for_row'
                OR prosrc ~* '\m(directives_from_extra|insert_directive)\M|insert\s+into\s+(\w+\.|"\w+"\.)?"?directives\M')
    LOOP
        RAISE WARNING 'the trigger % (function %) on events is replaced by events_insert_directive_trigger',
                      other.tgname, other.proname;
        EXECUTE format('DROP TRIGGER %I ON events', other.tgname);
    END LOOP;

    -- Made anew only where it is not as it should be: DROP TRIGGER waits until nobody uses `events`, and a trigger that an
    -- operator disabled stays disabled.
    IF NOT EXISTS (SELECT FROM pg_trigger
                    WHERE tgrelid = 'events'::regclass AND tgname = 'events_insert_directive_trigger'
                      AND tgfoid = 'events_insert_directives_for_row()'::regprocedure
                      AND tgtype = 5  -- FOR EACH ROW (1) + INSERT (4), neither BEFORE nor INSTEAD OF
                      AND tgqual IS NULL AND tgattr = '') THEN
        DROP TRIGGER IF EXISTS events_insert_directive_trigger ON events;
        CREATE TRIGGER events_insert_directive_trigger
            AFTER INSERT ON events
            FOR EACH ROW EXECUTE FUNCTION events_insert_directives_for_row();
    END IF;
END
$do$;

COMMIT;
