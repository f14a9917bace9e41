-- The table `events` as IntelMQ's PostgreSQL output bot fills it: for the demo, for tests, and for whoever starts
-- without IntelMQ's own database script. An `events` table that exists already is left as it is.
--
--     psql -v ON_ERROR_STOP=1 -d DATABASE -f sql/events.sql
--
-- Rights on the table are granted by notifications.sql, which runs next and makes the roles.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;

DO $do$
BEGIN
    -- CREATE TYPE knows no IF NOT EXISTS.
    IF to_regtype('severity_enum') IS NULL AND to_regclass('events') IS NULL THEN
        CREATE TYPE severity_enum AS ENUM ('critical', 'high', 'medium', 'low', 'info', 'undefined');
    END IF;
END
$do$;

DO $do$
BEGIN
    IF to_regclass('events') IS NOT NULL THEN
        RETURN;
    END IF;

    CREATE TABLE events (
        "id"                               bigserial PRIMARY KEY,
        "classification.identifier"        text,
        "classification.taxonomy"          varchar(100),
        "classification.type"              text,
        "comment"                          text,
        "constituency"                     text,
        "destination.abuse_contact"        text,
        "destination.account"              text,
        "destination.allocated"            timestamptz,
        "destination.as_name"              text,
        "destination.asn"                  bigint,
        "destination.domain_suffix"        text,
        "destination.fqdn"                 text,
        "destination.geolocation.cc"       varchar(2),
        "destination.geolocation.city"     text,
        "destination.geolocation.country"  text,
        "destination.geolocation.latitude" real,
        "destination.geolocation.longitude" real,
        "destination.geolocation.region"   text,
        "destination.geolocation.state"    text,
        "destination.ip"                   inet,
        "destination.local_hostname"       text,
        "destination.local_ip"             inet,
        "destination.network"              inet,
        "destination.port"                 integer,
        "destination.registry"             varchar(7),
        "destination.reverse_dns"          text,
        "destination.tor_node"             boolean,
        "destination.url"                  text,
        "destination.urlpath"              text,
        "event_description.target"         text,
        "event_description.text"           text,
        "event_description.url"            text,
        "event_hash"                       varchar(40),
        "extra"                            jsonb,
        "feed.accuracy"                    real,
        "feed.code"                        varchar(100),
        "feed.documentation"               text,
        "feed.name"                        text,
        "feed.provider"                    text,
        "feed.url"                         text,
        "malware.hash.md5"                 varchar(200),
        "malware.hash.sha1"                varchar(200),
        "malware.hash.sha256"              varchar(200),
        "malware.name"                     text,
        "malware.version"                  text,
        "misp.attribute_uuid"              varchar(36),
        "misp.event_uuid"                  varchar(36),
        "output"                           jsonb,
        "product.full_name"                text,
        "product.name"                     text,
        "product.vendor"                   text,
        "product.version"                  text,
        "product.vulnerabilities"          text,
        "protocol.application"             varchar(100),
        "protocol.transport"               varchar(11),
        "raw"                              text,
        "rtir_id"                          integer,
        "screenshot_url"                   text,
        "severity"                         severity_enum,
        "source.abuse_contact"             text,
        "source.account"                   text,
        "source.allocated"                 timestamptz,
        "source.as_name"                   text,
        "source.asn"                       bigint,
        "source.domain_suffix"             text,
        "source.fqdn"                      text,
        "source.geolocation.cc"            varchar(2),
        "source.geolocation.city"          text,
        "source.geolocation.country"       text,
        "source.geolocation.cymru_cc"      varchar(2),
        "source.geolocation.geoip_cc"      varchar(2),
        "source.geolocation.latitude"      real,
        "source.geolocation.longitude"     real,
        "source.geolocation.region"        text,
        "source.geolocation.state"         text,
        "source.ip"                        inet,
        "source.local_hostname"            text,
        "source.local_ip"                  inet,
        "source.network"                   inet,
        "source.port"                      integer,
        "source.registry"                  varchar(7),
        "source.reverse_dns"               text,
        "source.tor_node"                  boolean,
        "source.url"                       text,
        "source.urlpath"                   text,
        "status"                           text,
        "time.observation"                 timestamptz,
        "time.source"                      timestamptz,
        "tlp"                              text
    );

    CREATE INDEX "idx_events_classification.identifier" ON events ("classification.identifier");
    CREATE INDEX "idx_events_classification.taxonomy"   ON events ("classification.taxonomy");
    CREATE INDEX "idx_events_classification.type"       ON events ("classification.type");
    CREATE INDEX "idx_events_feed.code"                 ON events ("feed.code");
    CREATE INDEX "idx_events_feed.name"                 ON events ("feed.name");
    CREATE INDEX "idx_events_source.abuse_contact"      ON events ("source.abuse_contact");
    CREATE INDEX "idx_events_source.asn"                ON events ("source.asn");
    CREATE INDEX "idx_events_source.ip"                 ON events ("source.ip");
    CREATE INDEX "idx_events_source.fqdn"               ON events ("source.fqdn");
    CREATE INDEX "idx_events_time.observation"          ON events ("time.observation");
    CREATE INDEX "idx_events_time.source"               ON events ("time.source");
END
$do$;

COMMIT;
