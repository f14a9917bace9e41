-- For a database with many million directives: builds the new indexes beforehand, without a lock, so that
-- notifications.sql, run right afterwards, finds them there and is done in a moment.
--
--     psql -v ON_ERROR_STOP=1 -d DATABASE -f sql/updates/large-tables.sql      (as a superuser)
--
-- Events come in and mails go out meanwhile. Not inside BEGIN … COMMIT: CREATE INDEX CONCURRENTLY refuses that. If a
-- statement is interrupted, it leaves an index marked INVALID (see \d directives): drop that one and run the file again.
-- Each statement is the one of notifications.sql, where the purpose of each index stands; a test compares them.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

-- Without it Mailgen 1.3 and later is slow as well; older databases have directives_grouping_idx in its place, which
-- nothing needs any more once this one exists:  DROP INDEX CONCURRENTLY directives_grouping_idx;
CREATE INDEX CONCURRENTLY IF NOT EXISTS directives_grouping_inserted_at_idx
    ON directives (recipient_address, template_name, notification_format, event_data_format,
                   aggregate_identifier, inserted_at);
CREATE INDEX CONCURRENTLY IF NOT EXISTS directives_events_id_idx ON directives (events_id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS directives_sent_id_idx ON directives (sent_id);

CREATE INDEX CONCURRENTLY IF NOT EXISTS directives_pending_idx
    ON directives (id)
    WHERE sent_id IS NULL AND medium = 'email' AND endpoint = 'source';

CREATE INDEX CONCURRENTLY IF NOT EXISTS directives_last_sent_idx
    ON directives (recipient_address, template_name, notification_format, event_data_format,
                   aggregate_identifier, sent_id)
    WHERE sent_id IS NOT NULL;
