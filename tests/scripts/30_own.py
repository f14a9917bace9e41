"""Mails with everything that mail_format_as_csv takes, and everything else that a context offers."""
import datetime

from intelmqmail.notification import (FALLBACK_FORMAT_SPEC, EmailNotification, InvalidTemplate,
                                      Notification)
from intelmqmail.tableformat import build_table_format, format_as_csv
from intelmqmail.templates import IntelMQStringTemplate, Template, read_template

TEMPLATE = Template.from_strings(
    "[$ticket_number] own for ${source.asn}",
    "$$5, ${value}, ${count} in ${network}.\n\n${events_as_csv}${signature}\n")
SHORT = build_table_format("short", [("source.ip", "ip")])


def check_events(context):
    """load_events() gives what psycopg2 does."""
    events = context.load_events(["source.ip", "time.source", "extra"])
    assert len(events) == len(set(context.directive.event_ids)), events
    event = events[0]
    assert set(event) == {"source.ip", "time.source", "extra"}, event
    assert event["source.ip"] == "192.0.2.1", event
    utc = datetime.timezone.utc
    assert event["time.source"] == datetime.datetime(2026, 11, 24, 10, 11, 12, tzinfo=utc), event
    assert event["extra"]["tag"] == "t1", event
    whole = context.load_events()[0]
    assert whole["id"] == context.directive.event_ids[0]
    assert whole["source.asn"] == 64496 and whole["destination.ip"] is None
    assert isinstance(whole["source.geolocation.latitude"], float)
    assert whole["source.tor_node"] is True
    assert format_as_csv(SHORT, events).startswith('"ip"\r\n"192.0.2.1"\r\n')


def create_notifications(context):
    directive = context.directive
    if directive.notification_format != "own":
        return None
    check_events(context)
    assert context.default_format_spec is FALLBACK_FORMAT_SPEC
    assert context.fallback_template is None and context.templates is None
    assert context.maybe_sign("body") == "body"
    assert TEMPLATE.substitute(dict.fromkeys(
        ("ticket_number", "source.asn", "value", "count", "network", "events_as_csv", "signature"),
        "x"))[0] == "[x] own for x"
    assert IntelMQStringTemplate("${a.b}").substitute({"a.b": "c"}) == "c"
    generic = read_template(context.config["template_dir"], "generic")
    assert generic.subject.template == context.read_template(None).subject.template
    assert context.read_template({"generic": TEMPLATE}) is TEMPLATE
    try:
        directive.template_name = "../nosuch"
        context.read_template(context.templates)
    except InvalidTemplate as error:
        assert error.template_name == "../nosuch"
        directive.template_name = "generic"
    values = dict(context.substitutions, value="${source.asn} stays")

    # The main mail, to whom the directive names, with a ticket that was drawn before.
    ticket = context.new_ticket_number()
    main = context.mail_format_as_csv(SHORT, TEMPLATE, values, ticket_number=ticket)
    assert len(main) == 1 and isinstance(main[0], EmailNotification)
    assert isinstance(main[0], Notification) and main[0].ticket == ticket
    assert main[0].mark_as_sent and main[0].envelope_tos is None and main[0].directive is directive
    # A copy with the same ticket, and one with a ticket of its own.
    copy = context.mail_format_as_csv(format_spec=SHORT, template_name="generic",
                                      substitutions=None, attach_event_data=True,
                                      envelope_tos=["a@cert.example", "b@cert.example"],
                                      ticket_number=main[0].ticket, mark_as_sent=False)
    again = EmailNotification(directive, main[0].email, None, ["c@cert.example"], False)
    # The default: fallback columns, the context's templates.
    context.templates = {"generic": Template.from_strings("from the context", "${events_as_csv}")}
    default = context.mail_format_as_csv(envelope_tos=["d@cert.example"], mark_as_sent=False)
    context.fallback_template = Template.from_strings("fallback", "nothing")
    fallback = context.mail_format_as_csv(envelope_tos=["e@cert.example"])
    fallback[0].mark_as_sent = False
    try:
        main[0].email["Subject"]
    except Exception as error:
        assert "no mail to look at yet" in str(error), error
    else:
        raise AssertionError("there was a mail")
    return main + copy + [again] + default + fallback
