-- Puts events, one JSON object a line, into the table `events`; the trigger makes their directives.
--
--     psql -f tests/demo/load-events.sql <tests/events/sample-events.jsonl

\set ON_ERROR_STOP on
\set QUIET on
BEGIN;
CREATE TEMPORARY TABLE lines (event jsonb) ON COMMIT DROP;
-- With two control characters, which no JSON has unescaped, for quote and delimiter, CSV takes a line as it is.
\copy lines FROM pstdin WITH (FORMAT csv, QUOTE e'\x01', DELIMITER e'\x02')
INSERT INTO events
SELECT event.*
  FROM lines, jsonb_populate_record(NULL::events, lines.event || jsonb_build_object('id', nextval('events_id_seq'))) AS event;
COMMIT;
