//! What `sql/` promises: it runs on every database that an IntelMQ installation may have, an event
//! is never lost to a bad directive, the programs need the rights they are given and no more, and
//! old mails don't slow down new ones.

use std::io::Write;
use std::thread;
use std::time::Duration;

use outbox_tests::database::{insert_event, sql_file};
use outbox_tests::events::{Directive, event_with};
use outbox_tests::postgres_cluster::{DELIVERER_ROLE, GENERATOR_ROLE, INTELMQ_ROLE};
use outbox_tests::programs::wait_until;
use outbox_tests::scripted_relay::ScriptedRelay;
use outbox_tests::site::Site;
use outbox_tests::{Cluster, Database, programs};
use postgres::Client;
use postgres::error::SqlState;
use serde_json::{Value, json};

// ---- Directives that can be taken ----

#[test]
fn a_good_directive_becomes_one_row_with_every_value_as_written() {
    let database = Cluster::shared().database();
    let event = database.insert_event(&event_with(&json!([{
        "medium": "email",
        "recipient_address": "abuse@as64496.example",
        "template_name": "bot-infection_provider",
        "notification_format": "malware-infection",
        "event_data_format": "malware-infection_csv_inline",
        "aggregate_identifier": {"time.observation": "2026-11-20T06:00:00+00:00", "source.asn": 64496},
        "notification_interval": 86400,
    }])));

    let rows = database
        .connect()
        .query(
            "SELECT events_id, sent_id, medium, recipient_address, template_name, notification_format, event_data_format,
                    aggregate_identifier = ARRAY[ARRAY['source.asn', '64496'],
                                                 ARRAY['time.observation', '2026-11-20T06:00:00+00:00']],
                    notification_interval = interval '1 day', endpoint::text,
                    inserted_at = (SELECT now()) OR inserted_at > now() - interval '1 minute'
               FROM directives",
            &[],
        )
        .unwrap();

    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(row.get::<_, i64>(0), event);
    assert_eq!(row.get::<_, Option<i64>>(1), None);
    let texts: Vec<&str> = (2..7).map(|column| row.get(column)).collect();
    assert_eq!(
        texts,
        [
            "email",
            "abuse@as64496.example",
            "bot-infection_provider",
            "malware-infection",
            "malware-infection_csv_inline"
        ]
    );
    assert!(row.get::<_, bool>(7), "aggregate_identifier");
    assert!(row.get::<_, bool>(8), "notification_interval");
    assert_eq!(row.get::<_, &str>(9), "source");
    assert!(row.get::<_, bool>(10), "inserted_at");
    assert_eq!(rejected(&database), [] as [String; 0]);
}

#[test]
fn an_aggregate_identifier_is_stored_as_pairs_in_the_order_of_their_keys() {
    let database = Cluster::shared().database();
    for (identifier, stored) in [
        (json!({}), "{}"),
        (json!({"b": "2", "a": "1"}), "{{a,1},{b,2}}"),
        (
            json!({"number": 1.50, "big": 4_200_393_735_u64, "yes": true}),
            "{{big,4200393735},{number,1.5},{yes,true}}",
        ),
        (
            json!({"nothing": null, "word": "null", "empty": ""}),
            r#"{{empty,""},{nothing,NULL},{word,"null"}}"#,
        ),
        (json!({"umlaut": "ä\"\\,{"}), r#"{{umlaut,"ä\"\\,{"}}"#),
    ] {
        clear(&database);
        database.insert_event(&event_with(&json!([directive(&[(
            "aggregate_identifier",
            identifier.clone()
        )])])));
        let text: String = database
            .connect()
            .query_one("SELECT aggregate_identifier::text FROM directives", &[])
            .unwrap()
            .get(0);
        assert_eq!(text, stored, "{identifier}");
    }
}

#[test]
fn what_mailgen_takes_for_a_default_or_a_number_is_taken_just_so() {
    let without = |key: &str| {
        let mut directive = directive(&[]);
        directive.as_object_mut().unwrap().remove(key);
        directive
    };
    let database = Cluster::shared().database();
    for (directive, seconds) in [
        (without("notification_interval"), 0),
        (without("aggregate_identifier"), 3600),
        (directive(&[("notification_interval", json!(null))]), 0),
        (directive(&[("notification_interval", json!("3600"))]), 3600),
        (directive(&[("notification_interval", json!(2_147_483_647))]), 2_147_483_647),
        (directive(&[("notification_interval", json!(-5))]), -5),
        (directive(&[("template_name", json!(7))]), 3600),
        (directive(&[("medium", json!("sms"))]), 3600),
        (directive(&[("recipient_address", json!("ä".repeat(100)))]), 3600),
    ] {
        clear(&database);
        database.insert_event(&event_with(&json!([directive])));
        let stored: Vec<i64> = column(
            &mut database.connect(),
            "SELECT extract(epoch FROM notification_interval)::bigint FROM directives WHERE aggregate_identifier IS NOT NULL",
        );
        assert_eq!(stored, [seconds], "{directive}");
        assert_eq!(rejected(&database), [] as [String; 0], "{directive}");
    }
}

#[test]
fn an_interval_of_minus_one_asks_for_no_notification_and_is_no_mistake() {
    let database = Cluster::shared().database();
    database.insert_event(&event_with(&json!([
        directive(&[("notification_interval", json!(-1))]),
        directive(&[("notification_interval", json!("-1"))]),
        {"notification_interval": -1},
    ])));
    assert_eq!(counts(&database), Counts { events: 1, directives: 0, rejected: 0 });
}

#[test]
fn an_event_without_directives_is_stored_and_nothing_else_happens() {
    let databases = ["json", "jsonb"].map(database_with_extra);
    for extra in [
        json!({}),
        json!({"naics": 517_311}),
        json!({"certbund": {}}),
        json!({"certbund": null}),
        json!({"certbund": {"source_directives": []}}),
        json!({"certbund": {"source_directives": null}}),
        // Nothing mails to the endpoint destination; Mailgen doesn't read these either.
        json!({"certbund": {"destination_directives": [directive(&[])]}}),
        json!([1, 2]),
        json!("certbund"),
        json!(7),
    ] {
        for database in &databases {
            clear(database);
            insert_extra(database, &extra.to_string());
            assert_eq!(
                counts(database),
                Counts { events: 1, directives: 0, rejected: 0 },
                "{extra}"
            );
        }
    }
    let database = Cluster::shared().database();
    database.insert_event(&json!({"source.asn": 64496}));
    assert_eq!(counts(&database), Counts { events: 1, directives: 0, rejected: 0 });
}

// ---- Directives that can't ----

#[test]
fn a_directive_with_a_text_too_long_or_missing_or_no_text_is_kept_with_its_reason() {
    let long = "x".repeat(101);
    let without = |key: &str| {
        let mut directive = directive(&[]);
        directive.as_object_mut().unwrap().remove(key);
        directive
    };
    assert_rejected(&[
        (
            directive(&[("recipient_address", json!(long))]),
            "recipient_address has 101 characters, no more than 100 fit",
        ),
        (directive(&[("medium", json!(long))]), "medium has 101 characters, no more than 100 fit"),
        (
            directive(&[("template_name", json!(long))]),
            "template_name has 101 characters, no more than 100 fit",
        ),
        (
            directive(&[("notification_format", json!(long))]),
            "notification_format has 101 characters, no more than 100 fit",
        ),
        (
            directive(&[("event_data_format", json!(long))]),
            "event_data_format has 101 characters, no more than 100 fit",
        ),
        (without("medium"), "medium is missing"),
        (without("recipient_address"), "recipient_address is missing"),
        (without("template_name"), "template_name is missing"),
        (without("notification_format"), "notification_format is missing"),
        (without("event_data_format"), "event_data_format is missing"),
        (directive(&[("medium", json!(null))]), "medium is null, not text"),
        (directive(&[("medium", json!(""))]), "medium is empty"),
        (directive(&[("recipient_address", json!(""))]), "recipient_address is empty"),
        (
            directive(&[("recipient_address", json!(["a@as64496.example"]))]),
            "recipient_address is a list, not text",
        ),
        (
            directive(&[("template_name", json!({"de": "x"}))]),
            "template_name is an object, not text",
        ),
    ]);
}

#[test]
fn a_directive_whose_interval_is_no_whole_number_of_seconds_is_kept_with_its_reason() {
    assert_rejected(&[
        (
            directive(&[("notification_interval", parsed("3600.0"))]),
            "notification_interval is 3600.0, not a whole number of seconds",
        ),
        (
            directive(&[("notification_interval", parsed("-1.0"))]),
            "notification_interval is -1.0, not a whole number of seconds",
        ),
        (
            directive(&[("notification_interval", json!("1h"))]),
            "notification_interval is \"1h\", not a whole number of seconds",
        ),
        (
            directive(&[("notification_interval", json!(""))]),
            "notification_interval is \"\", not a whole number of seconds",
        ),
        (
            directive(&[("notification_interval", json!(true))]),
            "notification_interval is true, not a whole number of seconds",
        ),
        (
            directive(&[("notification_interval", json!([3600]))]),
            "notification_interval is [3600], not a whole number of seconds",
        ),
        (
            directive(&[("notification_interval", json!(2_147_483_648_u64))]),
            "notification_interval is 2147483648, no more than 2147483647 seconds are possible",
        ),
        (
            directive(&[("notification_interval", json!(99_999_999_999_u64))]),
            "notification_interval is 99999999999, not a whole number of seconds",
        ),
    ]);
}

#[test]
fn a_directive_whose_aggregate_identifier_or_self_is_no_plain_object_is_kept_with_its_reason() {
    assert_rejected(&[
        (
            directive(&[("aggregate_identifier", json!([]))]),
            "aggregate_identifier is a list, not an object",
        ),
        (
            directive(&[("aggregate_identifier", json!([["a", "b"]]))]),
            "aggregate_identifier is a list, not an object",
        ),
        (
            directive(&[("aggregate_identifier", json!(null))]),
            "aggregate_identifier is null, not an object",
        ),
        (
            directive(&[("aggregate_identifier", json!("x"))]),
            "aggregate_identifier is text, not an object",
        ),
        (
            directive(&[("aggregate_identifier", json!({"good": 1, "bad \"key\"": {"deep": 1}}))]),
            "aggregate_identifier has an object for \"bad \\\"key\\\"\", not a plain value",
        ),
        (
            directive(&[("aggregate_identifier", json!({"bad": [1]}))]),
            "aggregate_identifier has a list for \"bad\", not a plain value",
        ),
        (json!("x"), "the directive is text, not an object"),
        (json!(null), "the directive is null, not an object"),
        (json!([[]]), "the directive is a list, not an object"),
        (json!({}), "medium is missing"),
    ]);
}

#[test]
fn a_certbund_or_a_list_of_directives_of_the_wrong_shape_is_kept_as_a_whole() {
    for kind in ["json", "jsonb"] {
        let database = database_with_extra(kind);
        for (extra, reason) in [
            (
                json!({"certbund": {"source_directives": directive(&[])}}),
                "source_directives is not a list",
            ),
            (json!({"certbund": {"source_directives": "all"}}), "source_directives is not a list"),
            (json!({"certbund": {"source_directives": 1}}), "source_directives is not a list"),
            (json!({"certbund": [directive(&[])]}), "certbund is not an object"),
            (json!({"certbund": "x"}), "certbund is not an object"),
        ] {
            // With a NUL elsewhere the other of the two readers is at work.
            for nul in ["", r#", "banner": "\u0000""#] {
                if !nul.is_empty() && kind == "jsonb" {
                    continue;
                }
                clear(&database);
                let text = extra.to_string();
                insert_extra(&database, &format!("{}{nul}}}", &text[..text.len() - 1]));
                assert_eq!(
                    counts(&database),
                    Counts { events: 1, directives: 0, rejected: 1 },
                    "{kind}: {extra}"
                );
                assert_eq!(rejected(&database), [reason], "{kind}: {extra}");
            }
        }
    }
}

#[test]
fn characters_that_postgresql_cannot_store_spoil_only_the_directive_that_holds_them() {
    let database = database_with_extra("json");
    let good = directive(&[]).to_string();
    let odd = good.replace("abuse@", r"\ud83d\ude00\ud83d\ude00\\u0000\\ud800@");
    // The escapes that text in PostgreSQL can't hold, then look-alikes that it can.
    for (escape, storable) in [
        (r"\u0000", false),
        (r"\u0000\u0000", false),
        (r"\\\u0000", false),
        (r"\udc80", false),
        (r"\ud800", false),
        (r"\uDBFFx", false),
        (r"\ud800\ud800\udc00", false),
        (r"\\u0000", true),
        (r"\\\\udc80", true),
        (r"\ud83d\ude00", true),
        (r"\u00e4", true),
    ] {
        let bad = good.replace("abuse@", &format!("{escape}@"));

        clear(&database);
        let extra = format!(r#"{{"certbund": {{"source_directives": [{good}, {bad}, {good}]}}}}"#);
        insert_extra(&database, &extra);
        let rejects = i64::from(!storable);
        assert_eq!(
            counts(&database),
            Counts { events: 1, directives: 3 - rejects, rejected: rejects },
            "{escape} in a directive: {:?}",
            rejected(&database)
        );
        let kept: Vec<String> =
            column(&mut database.connect(), "SELECT directive::text FROM directives_rejected");
        assert!(kept.iter().all(|kept| *kept == bad), "{escape} is kept as it was: {kept:?}");
        let whole: String =
            database.connect().query_one("SELECT extra::text FROM events", &[]).unwrap().get(0);
        assert_eq!(whole, extra);

        clear(&database);
        insert_extra(
            &database,
            &format!(
                r#"{{"banner{escape}": "{escape}", "certbund": {{"source_directives": [{good}, {odd}]}}}}"#
            ),
        );
        assert_eq!(
            counts(&database),
            Counts { events: 1, directives: 2, rejected: 0 },
            "{escape} beside the directives"
        );
    }
}

#[test]
fn numbers_beyond_everything_spoil_only_the_directive_that_holds_them() {
    let database = database_with_extra("json");
    let good = directive(&[]).to_string();
    let huge = good.replace("3600", "1e999999");
    let long = good.replace("3600", &"9".repeat(200_000));
    insert_extra(
        &database,
        &format!(
            r#"{{"n": 1e999999, "certbund": {{"source_directives": [{huge}, {good}, {long}]}}}}"#
        ),
    );
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 2 });
    for reason in rejected(&database) {
        assert!(reason.contains("value overflows numeric format"), "{reason}");
    }
}

#[test]
fn values_that_are_too_long_together_for_the_index_are_kept_with_postgresqls_words() {
    // Random enough not to be compressed into the index.
    let database = Cluster::shared().database();
    let noise: String = database
        .connect()
        .query_one("SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n", &[])
        .unwrap()
        .get(0);
    database.insert_event(&event_with(&json!([
        directive(&[]),
        directive(&[("aggregate_identifier", json!({"noise": noise}))]),
        directive(&[]),
    ])));
    assert_eq!(counts(&database), Counts { events: 1, directives: 2, rejected: 1 });
    assert!(
        rejected(&database)[0].starts_with("PostgreSQL refused it: index row size"),
        "{:?}",
        rejected(&database)
    );
}

#[test]
fn a_condition_somebody_added_to_the_table_does_not_cost_the_event() {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute("ALTER TABLE directives ADD CONSTRAINT no_mail_to_us CHECK (recipient_address <> 'us@cert.example')")
        .unwrap();
    database.insert_event(&event_with(&json!([
        directive(&[("recipient_address", json!("us@cert.example"))]),
        directive(&[]),
    ])));
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 1 });
    assert!(rejected(&database)[0].contains("no_mail_to_us"));
}

#[test]
fn an_event_is_stored_even_where_nothing_can_be_recorded() {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute("DROP TABLE directives_rejected; ALTER TABLE directives RENAME TO gone")
        .unwrap();
    database.insert_event(&event_with(&json!([directive(&[]), {}])));
    let events: Vec<i64> = column(&mut database.connect(), "SELECT id FROM events");
    assert_eq!(events.len(), 1);
}

#[test]
fn a_column_that_was_widened_takes_longer_values() {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute(
            "ALTER TABLE directives ALTER recipient_address TYPE varchar(254), ALTER template_name TYPE text",
        )
        .unwrap();
    database.insert_event(&event_with(&json!([
        directive(&[
            ("recipient_address", json!("x".repeat(254))),
            ("template_name", json!("y".repeat(1000)))
        ]),
        directive(&[("recipient_address", json!("x".repeat(255)))]),
    ])));
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 1 });
    assert_eq!(rejected(&database), ["recipient_address has 255 characters, no more than 254 fit"]);
}

#[test]
fn a_rejected_directive_is_mended_and_put_back_as_the_readme_says() {
    let database = Cluster::shared().database();
    let event = database
        .insert_event(&event_with(&json!([directive(&[("notification_interval", json!("1h"))])])));
    database
        .connect_as("eventdb_owner")
        .batch_execute(
            "WITH taken AS (DELETE FROM directives_rejected WHERE reason LIKE 'notification_interval is \"1h\"%' RETURNING *)
             SELECT insert_directive(events_id, directive::jsonb || '{\"notification_interval\": 3600}', endpoint) FROM taken",
        )
        .unwrap();
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 0 });
    let of: Vec<i64> = column(&mut database.connect(), "SELECT events_id FROM directives");
    assert_eq!(of, [event]);
}

#[test]
fn an_event_takes_its_directives_along_when_it_is_deleted() {
    let database = Cluster::shared().database();
    database.insert_event(&event_with(&json!([directive(&[]), {}])));
    database.connect().batch_execute("DELETE FROM events").unwrap();
    assert_eq!(counts(&database), Counts { events: 0, directives: 0, rejected: 0 });
}

// ---- Many events ----

#[test]
fn a_thousand_events_in_one_statement_keep_all_they_have() {
    for kind in ["json", "jsonb"] {
        let database = database_with_extra(kind);
        let good = directive(&[]);
        let extra = json!({"certbund": {"source_directives": [good, {"medium": "email"}, good]}});
        let inserted = database
            .connect()
            .execute(
                &format!("INSERT INTO events (extra) SELECT $1::text::{kind} FROM generate_series(1, 1000)"),
                &[&extra.to_string()],
            )
            .unwrap();
        assert_eq!(inserted, 1000);
        assert_eq!(
            counts(&database),
            Counts { events: 1000, directives: 2000, rejected: 1000 },
            "{kind}"
        );
    }
}

#[test]
fn events_come_in_through_copy_as_well() {
    let database = Cluster::shared().database();
    let mut client = database.connect();
    let mut writer = client.copy_in("COPY events (extra) FROM STDIN").unwrap();
    for _ in 0..1000 {
        writeln!(writer, "{}", json!({"certbund": {"source_directives": [directive(&[])]}}))
            .unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(counts(&database), Counts { events: 1000, directives: 1000, rejected: 0 });
}

#[test]
fn neither_program_reads_what_was_sent_long_ago() {
    let relay = ScriptedRelay::start();
    let database = database_with_many_sent();
    let site = Site::new(programs!()).database(database).relay(relay.port()).unsigned().build();
    // Of two groups that were mailed twenty times, the one that asks for a day's pause gets it,
    // since the newest of those mails counts; and one group is new.
    let malware = |to: &str| {
        Directive::to(to)
            .template("malware-infection_provider")
            .format("malware-infection", "malware-infection_csv_inline")
            .aggregate("source.asn", 64496)
    };
    site.insert([
        &malware("abuse@as64496.example").interval(86_400).event(),
        &malware("abuse@as64497.example").event(),
        &malware("new@isp.example").interval(86_400).event(),
    ]);

    let before = Reads::so_far(&site);
    let run = site.generator(&["run", "--all"]).expect(0);
    run.line("INFO", &["done", "mails=50", "postponed=1"]);
    let between = Reads::so_far(&site);
    site.deliverer(&["run", "--once"]).expect(0);
    let after = Reads::so_far(&site);
    assert_eq!(relay.received().len(), 50);

    for (from, to) in [(&before, &between), (&between, &after)] {
        assert_eq!((to.scans, to.scanned), (from.scans, from.scanned), "{from:?} {to:?}");
        assert!(to.by_index - from.by_index < 1000, "{from:?} {to:?}");
    }
    assert!(between.pending_idx > before.pending_idx, "{before:?} {between:?}");
    assert!(between.last_sent_idx > before.last_sent_idx, "{before:?} {between:?}");
}

// ---- Rights ----

#[test]
fn intelmqs_user_stores_events_and_needs_no_right_on_directives() {
    let database = Cluster::shared().database();
    let mut client = database.connect_as(INTELMQ_ROLE);
    let extra = json!({"certbund": {"source_directives": [directive(&[]), {}]}});
    client.execute("INSERT INTO events (extra) VALUES ($1)", &[&extra]).unwrap();
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 1 });
    for forbidden in [
        "SELECT id FROM directives",
        "SELECT id FROM events",
        "DELETE FROM events",
        "SELECT id FROM sent",
    ] {
        assert_denied(&mut client, forbidden);
    }
}

#[test]
fn a_table_of_the_same_name_elsewhere_does_not_divert_the_trigger() {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute("CREATE SCHEMA decoy; GRANT ALL ON SCHEMA decoy TO PUBLIC")
        .unwrap();
    let mut client = database.connect_as(INTELMQ_ROLE);
    client
        .batch_execute(
            "CREATE TABLE decoy.directives (LIKE public.directives);
             CREATE TEMP TABLE directives_rejected (n int);
             SET search_path = decoy, public",
        )
        .unwrap_err();
    client
        .batch_execute(
            "CREATE TABLE decoy.directives (n int);
             CREATE TEMP TABLE directives_rejected (n int);
             SET search_path = decoy, public",
        )
        .unwrap();
    let extra = json!({"certbund": {"source_directives": [directive(&[]), {}]}});
    client.execute("INSERT INTO public.events (extra) VALUES ($1)", &[&extra]).unwrap();
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 1 });
}

#[test]
fn the_generators_role_may_change_neither_events_nor_what_was_sent() {
    let database = Cluster::shared().database();
    database.insert_event(&event_with(&json!([directive(&[])])));
    let mut generator = database.connect_as(GENERATOR_ROLE);
    for forbidden in [
        "UPDATE events SET comment = 'x'",
        "DELETE FROM events",
        "SELECT id FROM events FOR UPDATE",
        "DELETE FROM directives",
        "INSERT INTO events DEFAULT VALUES",
        "INSERT INTO directives_rejected (events_id, endpoint, reason) VALUES (1, 'source', 'x')",
        "DELETE FROM sent",
        "UPDATE sent SET sent_at = now()",
    ] {
        assert_denied(&mut generator, forbidden);
    }
}

#[test]
fn the_generators_role_may_draw_tickets_and_start_their_numbers_anew() {
    let database = Cluster::shared().database();
    let mut client = database.connect_as(GENERATOR_ROLE);
    let draw = "SELECT nextval('intelmq_ticket_seq')";
    assert_eq!(client.query_one(draw, &[]).unwrap().get::<_, i64>(0), 10_000_001);
    assert_eq!(client.query_one(draw, &[]).unwrap().get::<_, i64>(0), 10_000_002);
    let day: Vec<bool> =
        column(&mut client, "SELECT initialized_for_day < current_date FROM ticket_day");
    assert_eq!(day, [true], "the first run must find a day that is over");
    client
        .batch_execute("ALTER SEQUENCE intelmq_ticket_seq RESTART; UPDATE ticket_day SET initialized_for_day = current_date")
        .unwrap();
    assert_eq!(client.query_one(draw, &[]).unwrap().get::<_, i64>(0), 10_000_001);
}

#[test]
fn the_deliverers_role_may_mark_directives_and_sent_takes_a_ticket_only_once() {
    let database = Cluster::shared().database();
    database.insert_event(&event_with(&json!([directive(&[])])));
    let mut client = database.connect_as(DELIVERER_ROLE);
    mark_sent(&mut client, "20261125-10000001").unwrap();
    let pending: Vec<i64> = column(&mut client, "SELECT id FROM directives WHERE sent_id IS NULL");
    assert_eq!(pending, [] as [i64; 0]);
    let error = mark_sent(&mut client, "20261125-10000001").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION));
}

#[test]
fn the_generators_role_may_see_and_clear_what_was_rejected() {
    let database = Cluster::shared().database();
    database.insert_event(&event_with(&json!([{}])));
    let mut client = database.connect_as(GENERATOR_ROLE);
    assert_eq!(
        column::<String>(&mut client, "SELECT reason FROM directives_rejected"),
        ["medium is missing"]
    );
    client.batch_execute("DELETE FROM directives_rejected").unwrap();
    assert_eq!(rejected(&database), [] as [String; 0]);
}

#[test]
fn no_role_of_ours_can_make_roles() {
    let database = Cluster::shared().database();
    let powerful: Vec<String> = column(
        &mut database.connect(),
        "SELECT rolname::text FROM pg_roles
          WHERE rolname LIKE 'eventdb%' AND (rolcreaterole OR rolsuper OR rolcreatedb OR rolcanlogin)",
    );
    assert_eq!(powerful, [] as [String; 0]);
}

// ---- Queries of others ----

#[test]
fn the_queries_of_fody_find_a_mail_by_ticket_recipient_and_group() {
    let database = Cluster::shared().database();
    database.insert_event(&event_with(&json!([
        directive(&[(
            "aggregate_identifier",
            json!({"recipient_group": "national", "source.asn": null})
        )]),
        directive(&[("aggregate_identifier", json!({}))]),
    ])));
    mark_sent(&mut database.connect_as(DELIVERER_ROLE), "20261125-10000001").unwrap();
    let tickets: Vec<String> = column(
        &mut database.connect(),
        "SELECT sent.intelmq_ticket FROM events
           JOIN directives ON directives.events_id = events.id
           LEFT JOIN sent ON sent.id = directives.sent_id
          WHERE json_object(directives.aggregate_identifier) ->> 'recipient_group' ILIKE '%NATION%'
            AND directives.recipient_address = 'abuse@as64496.example'
            AND sent.intelmq_ticket = '20261125-10000001'",
    );
    assert_eq!(tickets, ["20261125-10000001"]);
    let groups: Vec<String> = column(
        &mut database.connect(),
        "SELECT json_object(aggregate_identifier)::text FROM directives ORDER BY id",
    );
    assert_eq!(groups, [r#"{"recipient_group" : "national", "source.asn" : null}"#, "{}"]);
}

// ---- Databases that exist ----

#[test]
fn on_an_empty_database_the_scripts_run_three_times_and_change_nothing_after_the_first() {
    let database = Cluster::shared().empty_database();
    database.load_sql(&sql_file("notifications.sql")).expect_err("there are no events yet");
    let mut seen = Vec::new();
    for _ in 0..3 {
        database.load_sql(&sql_file("events.sql")).unwrap();
        database.load_sql(&sql_file("notifications.sql")).unwrap();
        seen.push(catalogue(&database));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    database.insert_event(&event_with(&json!([directive(&[])])));
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 0 });
}

#[test]
fn over_a_database_of_mailgen_the_script_runs_three_times_and_touches_no_row() {
    let database = mailgen_database();
    // The point of it: before, this event is lost.
    let bad = json!({"source.asn": 64496, "extra": {"certbund": {"source_directives": [directive(&[]), [], directive(&[])]}}});
    insert_event(&mut database.connect(), &bad).expect_err("Mailgen's trigger refuses it");

    let before = rows(&database);
    for _ in 0..3 {
        database.load_sql(&sql_file("notifications.sql")).unwrap();
        assert_eq!(rows(&database), before);
    }

    database.connect().batch_execute("TRUNCATE events CASCADE").unwrap();
    database.insert_event(&bad);
    assert_eq!(counts(&database), Counts { events: 1, directives: 2, rejected: 1 });
    let kinds: Vec<String> = column(
        &mut database.connect(),
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute
          WHERE attrelid = 'events'::regclass AND attname IN ('extra', 'source.asn') ORDER BY attname",
    );
    assert_eq!(kinds, ["json", "integer"], "the columns of events are IntelMQ's business");

    let functions: Vec<String> = column(
        &mut database.connect(),
        "SELECT oid::regprocedure::text FROM pg_proc WHERE proname IN ('insert_directive', 'directives_from_extra')
          ORDER BY 1",
    );
    assert_eq!(
        functions,
        ["directives_from_extra(bigint,jsonb)", "insert_directive(bigint,jsonb,ip_endpoint)"],
        "with one for json beside it, PostgreSQL might choose the one that aborts"
    );

    mark_sent(&mut database.connect_as("eventdb_send_notifications"), "20261125-10000001").unwrap();
    database.connect().batch_execute("DELETE FROM events").unwrap();
    assert_eq!(
        counts(&database),
        Counts { events: 0, directives: 0, rejected: 0 },
        "the foreign keys cascade now"
    );
}

#[test]
fn a_trigger_of_another_name_that_writes_directives_is_replaced_and_others_stay() {
    let database = mailgen_database();
    database.connect().batch_execute(RENAMED_TRIGGER).unwrap();
    database
        .connect()
        .batch_execute(
            "CREATE FUNCTION remark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.comment := 'seen'; RETURN NEW; END $$;
             CREATE TRIGGER remark BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION remark()",
        )
        .unwrap();
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    let triggers: Vec<String> = column(
        &mut database.connect(),
        "SELECT tgname::text FROM pg_trigger WHERE tgrelid = 'events'::regclass AND NOT tgisinternal ORDER BY tgname",
    );
    assert_eq!(triggers, ["events_insert_directive_trigger", "remark"]);
    let before = counts(&database);
    database.insert_event(&event_with(&json!([directive(&[])])));
    assert_eq!(counts(&database).directives, before.directives + 1);
}

#[test]
fn a_group_that_mailgen_wrote_and_the_same_group_written_now_are_equal() {
    let database = mailgen_database();
    let mut client = database.connect();
    client.batch_execute("TRUNCATE events CASCADE").unwrap();
    let identifiers = [
        json!({}),
        json!({"source.asn": 64496, "time.observation": "2026-11-20T06:00:00+00:00"}),
        json!({"b": true, "a": null, "B": "x", "_": 1.5, "ä": ""}),
    ];
    let event = event_with(
        &identifiers
            .iter()
            .map(|identifier| directive(&[("aggregate_identifier", identifier.clone())]))
            .collect(),
    );
    database.insert_event(&event);
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    database.insert_event(&event);
    let groups: Vec<i64> =
        column(&mut client, "SELECT count(*) FROM directives GROUP BY aggregate_identifier");
    assert_eq!(groups, [2, 2, 2]);
}

#[test]
fn a_trigger_that_an_operator_disabled_stays_disabled() {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute("ALTER TABLE events DISABLE TRIGGER events_insert_directive_trigger")
        .unwrap();
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    database.insert_event(&event_with(&json!([directive(&[])])));
    assert_eq!(counts(&database), Counts { events: 1, directives: 0, rejected: 0 });
}

#[test]
fn the_oldest_directives_get_the_time_of_their_event_as_the_time_they_came_in() {
    let database = mailgen_database();
    database
        .connect()
        .batch_execute("ALTER TABLE directives DROP COLUMN inserted_at CASCADE")
        .unwrap();
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    let times: Vec<bool> = column(
        &mut database.connect(),
        "SELECT inserted_at = '2020-05-05 05:00+00' FROM directives",
    );
    assert_eq!(times, [true; 4]);
}

#[test]
fn the_indexes_built_beforehand_on_a_large_table_are_those_that_the_script_wants() {
    let indexes = |database: &Database| -> Vec<String> {
        column(
            &mut database.connect(),
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index
              WHERE indrelid = 'directives'::regclass AND indisvalid
                AND indexrelid::regclass::text NOT IN ('directives_grouping_idx', 'directives_recipient_group_idx')
              ORDER BY indexrelid::regclass::text",
        )
    };
    let database = mailgen_database();
    database.load_sql(&sql_file("updates/large-tables.sql")).unwrap();
    assert_eq!(indexes(&database), indexes(&Cluster::shared().database()));
    let before = indexes(&database);
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    assert_eq!(indexes(&database), before);
}

#[test]
fn a_table_too_old_to_be_brought_up_to_date_is_refused_in_words_and_left_alone() {
    let database = mailgen_database();
    database
        .connect()
        .batch_execute("ALTER TABLE directives DROP COLUMN notification_format CASCADE")
        .unwrap();
    let before = catalogue(&database);
    let error = database.load_sql(&sql_file("notifications.sql")).unwrap_err().to_string();
    assert!(error.contains("it lacks: notification_format"), "{error}");
    assert_eq!(catalogue(&database), before);
}

#[test]
fn intelmqs_own_user_keeps_the_events_table_that_is_its_own() {
    let database = Cluster::shared().empty_database();
    drop(Cluster::shared().database()); // makes the roles
    database.load_sql(&sql_file("events.sql")).unwrap();
    database
        .connect()
        .batch_execute(&format!("ALTER TABLE events OWNER TO {INTELMQ_ROLE}"))
        .unwrap();
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    let mut client = database.connect_as(INTELMQ_ROLE);
    insert_event(&mut client, &event_with(&json!([directive(&[])]))).unwrap();
    client.batch_execute("DELETE FROM events").unwrap();
    assert_eq!(counts(&database), Counts { events: 0, directives: 0, rejected: 0 });
}

#[test]
fn events_in_another_schema_get_their_directives_there() {
    let database = Cluster::shared().empty_database();
    database
        .connect()
        .batch_execute(&format!(
            "CREATE SCHEMA intelmq; ALTER DATABASE {} SET search_path = intelmq, public",
            database.name()
        ))
        .unwrap();
    database.load_sql(&sql_file("events.sql")).unwrap();
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    database.load_sql(&sql_file("notifications.sql")).unwrap();
    database.insert_event(&event_with(&json!([directive(&[])])));
    let stored: Vec<i64> = column(&mut database.connect(), "SELECT id FROM intelmq.directives");
    assert_eq!(stored.len(), 1);
}

#[test]
fn a_partitioned_events_table_works_without_the_foreign_key_it_cannot_have() {
    let database = Cluster::shared().empty_database();
    database
        .connect()
        .batch_execute(
            r#"CREATE TABLE events (id bigserial, extra jsonb, "time.observation" timestamptz NOT NULL DEFAULT now(),
                                    PRIMARY KEY (id, "time.observation")) PARTITION BY RANGE ("time.observation");
               CREATE TABLE events_all PARTITION OF events DEFAULT"#,
        )
        .unwrap();
    for _ in 0..2 {
        database.load_sql(&sql_file("notifications.sql")).unwrap();
    }
    insert_extra(
        &database,
        &json!({"certbund": {"source_directives": [directive(&[]), {}]}}).to_string(),
    );
    assert_eq!(counts(&database), Counts { events: 1, directives: 1, rejected: 1 });
}

#[test]
fn databases_of_one_cluster_are_set_up_at_the_same_time_and_each_by_two_at_once() {
    let cluster = Cluster::private();
    let databases: Vec<Database> = (0..4).map(|_| cluster.empty_database()).collect();
    for database in &databases {
        database.load_sql(&sql_file("events.sql")).unwrap();
    }
    thread::scope(|scope| {
        let running: Vec<_> = databases
            .iter()
            .chain(&databases)
            .map(|database| scope.spawn(|| database.load_sql(&sql_file("notifications.sql"))))
            .collect();
        for thread in running {
            thread.join().unwrap().unwrap();
        }
    });
}

#[test]
fn a_role_that_somebody_else_makes_at_this_very_moment_is_waited_for() {
    let cluster = Cluster::private();
    let [ours, other] = [cluster.empty_database(), cluster.empty_database()];
    ours.load_sql(&sql_file("events.sql")).unwrap();
    let mut client = other.connect();
    let mut transaction = client.transaction().unwrap();
    transaction.batch_execute("CREATE ROLE eventdb_insert NOLOGIN").unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| ours.load_sql(&sql_file("notifications.sql")));
        let mut watcher = ours.connect();
        let waiting = "SELECT FROM pg_locks WHERE NOT granted";
        while !running.is_finished() && watcher.query(waiting, &[]).unwrap().is_empty() {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!running.is_finished(), "it saw a role that was not there yet");
        transaction.commit().unwrap();
        running.join().unwrap().unwrap();
    });
}

// ---- What the tests above are made of ----

/// A directive that can be taken, with some of its values replaced.
fn directive(changes: &[(&str, Value)]) -> Value {
    let good = Directive::to("abuse@as64496.example").aggregate("source.asn", 64496).interval(3600);
    let change =
        |directive: Directive, (key, value): &(&str, Value)| directive.with(key, value.clone());
    changes.iter().fold(good, change).json()
}

/// JSON as it is spelled: `json!(3600.0)` leaves the spelling to the library.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A database whose `extra` is of this type.
fn database_with_extra(kind: &str) -> Database {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute(&format!("ALTER TABLE events ALTER extra TYPE {kind} USING extra::{kind}"))
        .unwrap();
    database
}

/// For each of these directives: it is rejected for this reason and kept as it was, while the event
/// and the good directives beside it are stored; whether `extra` is json or jsonb.
fn assert_rejected(cases: &[(Value, &str)]) {
    for kind in ["json", "jsonb"] {
        let database = database_with_extra(kind);
        for (directive, reason) in cases {
            clear(&database);
            let good = self::directive(&[]);
            insert_extra(
                &database,
                &json!({"certbund": {"source_directives": [good, directive, good]}}).to_string(),
            );

            assert_eq!(
                counts(&database),
                Counts { events: 1, directives: 2, rejected: 1 },
                "{kind}: {directive}"
            );
            assert_eq!(rejected(&database), [*reason], "{kind}: {directive}");
            let mut client = database.connect();
            let kept: String = client
                .query_one("SELECT directive::jsonb::text FROM directives_rejected", &[])
                .unwrap()
                .get(0);
            assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), *directive);
        }
    }
}

/// Takes all events out again, and with them their directives.
fn clear(database: &Database) {
    database.connect().batch_execute("DELETE FROM events").unwrap();
}

/// Stores an event whose `extra` is this text, letter by letter, as a client that sends text does.
fn insert_extra(database: &Database, extra: &str) {
    let quoted = extra.replace('\'', "''");
    database
        .connect()
        .batch_execute(&format!("INSERT INTO events (extra) VALUES ('{quoted}')"))
        .unwrap_or_else(|error| panic!("the event is lost: {error:?}\n{extra:.500}"));
}

#[derive(Debug, PartialEq)]
struct Counts {
    events: i64,
    directives: i64,
    rejected: i64,
}

fn counts(database: &Database) -> Counts {
    let row = database
        .connect()
        .query_one(
            "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM directives), (SELECT count(*) FROM directives_rejected)",
            &[],
        )
        .unwrap();
    Counts { events: row.get(0), directives: row.get(1), rejected: row.get(2) }
}

/// The reasons of what was rejected.
fn rejected(database: &Database) -> Vec<String> {
    column(&mut database.connect(), "SELECT reason FROM directives_rejected ORDER BY id")
}

/// The first column of a query's result.
fn column<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, query: &str) -> Vec<T> {
    client.query(query, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// Marks all that is pending, in the way of Mailgen.
fn mark_sent(client: &mut Client, ticket: &str) -> Result<(), postgres::Error> {
    client
        .execute(
            "WITH mail AS (INSERT INTO sent (intelmq_ticket, sent_at) VALUES ($1, now()) RETURNING id)
             UPDATE directives SET sent_id = (SELECT id FROM mail) WHERE sent_id IS NULL",
            &[&ticket],
        )
        .map(|_| ())
}

fn assert_denied(client: &mut Client, statement: &str) {
    let error = client.batch_execute(statement).expect_err(statement);
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}: {error}");
}

/// 100,000 directives of fifty groups that went out in 1,000 mails, twenty a group and the newest
/// of them just now, 5,000 that no mail program will ever take, and fifty that are pending.
fn database_with_many_sent() -> Database {
    let database = Cluster::shared().database();
    database
        .connect()
        .batch_execute(
            "INSERT INTO events (\"source.asn\") SELECT 64496 FROM generate_series(1, 105050);
             INSERT INTO sent (intelmq_ticket, sent_at)
             SELECT '20201101-' || (10000000 + n),
                    CASE WHEN n > 950 THEN now()
                         ELSE timestamptz '2020-11-01' + n * interval '1 minute' END
               FROM generate_series(1, 1000) n;
             INSERT INTO directives (events_id, sent_id, medium, recipient_address, template_name,
                                     notification_format, event_data_format, aggregate_identifier,
                                     notification_interval, endpoint)
             SELECT id, CASE WHEN id <= 100000 THEN 1 + id % 1000 END,
                    CASE WHEN id BETWEEN 100001 AND 105000 THEN 'paper' ELSE 'email' END,
                    'abuse@as' || (64496 + id % 50) || '.example', 'malware-infection_provider',
                    'malware-infection', 'malware-infection_csv_inline', '{{source.asn,64496}}',
                    '0', 'source'
               FROM events;
             ANALYZE",
        )
        .unwrap();
    database
}

/// What was read of the table `directives` since it was made.
#[derive(Debug)]
struct Reads {
    /// How often it was read from its beginning to its end, and how many rows that made.
    scans: i64,
    scanned: i64,
    /// How many entries of its indexes were read.
    by_index: i64,
    /// How often these two indexes were used.
    pending_idx: i64,
    last_sent_idx: i64,
}

impl Reads {
    /// Sessions tell what they read at their end at the latest.
    fn so_far(site: &Site) -> Self {
        let others = "SELECT pid FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
        wait_until("no other session is there", || site.column::<i32>(others).is_empty());
        let of_table = |what: &str| -> i64 {
            let from = "pg_stat_user_tables WHERE relname = 'directives'";
            site.column(&format!("SELECT {what} FROM {from}"))[0]
        };
        let of_indexes = |what: &str, names: &str| -> i64 {
            let from = "pg_stat_user_indexes WHERE relname = 'directives' AND indexrelname LIKE";
            site.column(&format!("SELECT sum({what})::bigint FROM {from} '{names}'"))[0]
        };
        Self {
            scans: of_table("seq_scan"),
            scanned: of_table("seq_tup_read"),
            by_index: of_indexes("idx_tup_read", "%"),
            pending_idx: of_indexes("idx_scan", "directives_pending_idx"),
            last_sent_idx: of_indexes("idx_scan", "directives_last_sent_idx"),
        }
    }
}

/// Everything in the tables, down to where on the disk each row lies and which transaction wrote
/// it.
fn rows(database: &Database) -> Vec<String> {
    ["events", "directives", "sent", "ticket_day"]
        .iter()
        .flat_map(|table| {
            column::<String>(
                &mut database.connect(),
                &format!("SELECT concat_ws(' ', '{table}', t.ctid, t.xmin, t.*) FROM {table} t ORDER BY t.ctid"),
            )
        })
        .collect()
}

/// Every object of the database with its rights, and its number, which would be another had it been
/// made anew.
fn catalogue(database: &Database) -> Vec<String> {
    column(
        &mut database.connect(),
        "SELECT concat_ws(' ', 'relation', oid, relname, relkind, relowner::regrole, relacl::text, relfilenode)
           FROM pg_class WHERE relnamespace = 'public'::regnamespace
         UNION ALL
         SELECT concat_ws(' ', 'function', oid, proname, proowner::regrole, proacl::text, proconfig::text, md5(prosrc))
           FROM pg_proc WHERE pronamespace = 'public'::regnamespace
         UNION ALL
         SELECT concat_ws(' ', 'trigger', oid, tgname, tgenabled) FROM pg_trigger WHERE NOT tgisinternal
         UNION ALL
         SELECT concat_ws(' ', 'constraint', oid, pg_get_constraintdef(oid))
           FROM pg_constraint WHERE connamespace = 'public'::regnamespace
         UNION ALL
         SELECT concat_ws(' ', 'schema', nspname, nspacl::text) FROM pg_namespace WHERE nspname = 'public'
         ORDER BY 1",
    )
}

/// A database of Mailgen's with four directives of events of 2020, three of them sent in two mails.
fn mailgen_database() -> Database {
    let database = Cluster::shared().mailgen_database();
    let mut event = event_with(&json!([
        directive(&[]),
        directive(&[("recipient_address", json!("noc@as64496.example"))])
    ]));
    event["time.observation"] = json!("2020-05-05T05:00:00+00:00");
    database.insert_events([&event, &event]);
    database
        .connect()
        .batch_execute(
            "INSERT INTO sent (intelmq_ticket, sent_at)
             VALUES ('20201124-10000001', '2020-11-24'), ('20201124-10000002', NULL);
             UPDATE directives SET sent_id = CASE WHEN id < 3 THEN 1 ELSE 2 END WHERE id < 4",
        )
        .unwrap();
    database
}

/// The trigger and its function by names that somebody chose.
const RENAMED_TRIGGER: &str = "
ALTER FUNCTION events_insert_directives_for_row RENAME TO queue_mails;
ALTER TRIGGER events_insert_directive_trigger ON events RENAME TO queue_mails;
";
