"""What a script gets, and what it answers."""

import datetime
import string

from intelmqmail.tableformat import build_table_format, columns_for_generator
from intelmqmail.templates import Template, read_template

#: The columns of a mail whose script names none.
FALLBACK_FORMAT_SPEC = build_table_format("Fallback", (
    ("source.asn", "asn"),
    ("source.ip", "ip"),
    ("time.source", "timestamp"),
    ("source.port", "src_port"),
    ("destination.ip", "dst_ip"),
    ("destination.port", "dst_port"),
    ("destination.fqdn", "dst_host"),
    ("protocol.transport", "proto"),
))


class NotificationError(Exception):
    """Something is wrong that a script, or what it calls, has found."""


class NotOffered(NotificationError):
    """What Mailgen does and outbox-generator does not. It is never passed over."""


class InvalidDirective(NotificationError):
    """The directive is for the script, but can not be answered as it is."""


class InvalidTemplate(InvalidDirective):
    """The template of a directive can not be used."""

    def __init__(self, template_name):
        self.template_name = template_name
        super().__init__("Invalid template %r" % (template_name,))


class Directive:
    """A group of directives. Its attributes are what they have in common, and what they are about."""

    def __init__(self, recipient_address, template_name, notification_format, event_data_format,
                 aggregate_identifier, event_ids, directive_ids, inserted_at,
                 notification_interval, last_sent):
        self.recipient_address = recipient_address
        self.template_name = template_name
        self.notification_format = notification_format
        self.event_data_format = event_data_format
        self.aggregate_identifier = dict(aggregate_identifier or {})
        self.event_ids = event_ids
        self.directive_ids = directive_ids
        self.inserted_at = inserted_at
        self.notification_interval = notification_interval
        self.last_sent = last_sent

    def __getitem__(self, key):
        return self.__dict__[key]

    def get(self, key, default=None):
        """The attribute of this name, if there is one."""
        return self.__dict__.get(key, default)

    def get_aggregation_item(self, key):
        """The value of a key in the aggregate identifier, if it is there."""
        return self.aggregate_identifier.get(key)


def parse_timestamp(raw):
    """The time of a text such as "2026-11-20T06:00:00+00:00"; "Z" and fractions are taken too."""
    text = raw[:-1] + "+00:00" if raw.endswith("Z") else raw
    time, plus, offset = text.rpartition("+")
    seconds, dot, fraction = time.partition(".")
    if dot and fraction.isdigit():
        text = seconds + "." + (fraction + "000000")[:6] + plus + offset
    time = datetime.datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("the time %r has no offset from UTC" % raw)
    return time.astimezone(datetime.timezone.utc)


class ScriptContext:
    """What a script can know of a group, and do about it. One object goes through all scripts."""

    #: Signing is outbox-generator's work.
    gpgme_ctx = None

    def __init__(self, host, config, directive, logger, now, substitutions):
        self._host = host
        self._event_ids = list(directive.event_ids)
        self._directive_ids = list(directive.directive_ids)
        self._recipient = directive.recipient_address
        self._aggregate = dict(directive.aggregate_identifier)
        self.config = config
        self.directive = directive
        self.logger = logger
        self.now = now
        self.substitutions = substitutions
        self.fallback_template = None
        self.templates = None
        self.default_format_spec = FALLBACK_FORMAT_SPEC

    @property
    def db_cursor(self):
        raise NotOffered("scripts have no connection to the database here: use load_events() "
                                "and new_ticket_number()")

    def notification_interval_exceeded(self):
        """Whether the last mail to an equal group is older than the interval, or there is none."""
        last_sent = self.directive.last_sent
        return last_sent is None or last_sent + self.directive.notification_interval < self.now

    def age_of_newest_directive(self):
        """How long ago the newest of the directives was inserted."""
        return self.now - self.directive.inserted_at

    def age_of_observation(self):
        """How long ago the events were observed, if the group is one by `time.observation`."""
        time = self.directive.get_aggregation_item("time.observation")
        return None if time is None else self.now - parse_timestamp(time)

    def new_ticket_number(self):
        """Draws a ticket number."""
        return self._host.ask({"new_ticket_number": True})["ticket"]

    def load_events(self, columns=None):
        """The group's events, as dictionaries with these columns, or with all."""
        columns = None if columns is None else list(columns)
        answer = self._host.ask({"load_events": {"columns": columns}})
        events, times = answer["events"], answer["times"]
        if self._is_about_some():
            wanted = set(self.directive.event_ids)
            events = [event for event in events if event["id"] in wanted]
        for event in events:
            for name in times:
                event[name] = _time(event[name])
            if columns is not None and "id" not in columns:
                del event["id"]
        return events

    def _is_about_some(self):
        """Whether a script left some of the group's events out."""
        return list(self.directive.event_ids) != self._event_ids

    def read_template(self, templates=None):
        """The template that the directives name: one of `templates`, or a file."""
        name = self.directive.template_name
        try:
            return read_template(self.config["template_dir"], name, templates=templates)
        except Exception as error:
            raise InvalidTemplate(name) from error

    def maybe_sign(self, body):
        """The body as it is: the whole mail is signed when it is made."""
        return body

    def _refuse_changes(self):
        """Raises an error if a script set what the generator does not ask scripts for. Mailgen heeds it, so a
        mail without it could go to the wrong people."""
        directive = self.directive
        if directive.recipient_address != self._recipient:
            raise NotOffered("scripts can not set the directive's recipient_address: use "
                                    "envelope_tos= or, for all mails, review.redirect_to")
        if list(directive.directive_ids) != self._directive_ids and not self._is_about_some():
            raise NotOffered("scripts can not set the directive's directive_ids: set its event_ids")
        for name, value in self._aggregate.items():
            if directive.aggregate_identifier.get(name) != value:
                raise NotOffered("scripts can not change %r in the directive's "
                                        "aggregate_identifier: use a new name" % name)
        if self.config.get("sender") != self._host.sender:
            raise NotOffered("scripts can not set the sender of mails")

    def mail_format_as_csv(self, format_spec=None, template=None, substitutions=None,
                           attach_event_data=False, template_name=None, envelope_tos=None,
                           ticket_number=None, mark_as_sent=True):
        """A mail with the group's events as CSV: a list with one notification."""
        self._refuse_changes()
        if format_spec is None:
            format_spec = self.default_format_spec
        if template is None and template_name:
            template = read_template(self.config["template_dir"], template_name,
                                     templates=self.templates)
        elif template is None and self.fallback_template:
            template = self.fallback_template
        elif template is None:
            template = self.read_template(self.templates)
        plan = _template_for_generator(template)
        plan["columns"] = columns_for_generator(format_spec, self.load_events)
        plan["data"] = "attachment" if attach_event_data else "inline"
        added = {name: value for name, value in self.directive.aggregate_identifier.items()
                 if name not in self._aggregate}
        plan["substitutions"] = {**texts(substitutions), **texts(added)}
        if self._is_about_some():
            plan["event_ids"] = list(self.directive.event_ids)
        return [EmailNotification(self.directive, Mail(plan, self.new_ticket_number), ticket_number,
                                  envelope_tos=envelope_tos, mark_as_sent=mark_as_sent)]

    def mail_format_as_xarf(self, *_, **__):
        raise NotOffered("scripts make no X-ARF mails here: write a format definition with "
                                "data = \"xarf-0.2\" or \"xarf-4\" instead")

    create_xarf_mail = mail_format_as_xarf


def _time(value):
    """A time of the database. Python has none for infinity."""
    if not isinstance(value, str):
        return value
    try:
        return parse_timestamp(value)
    except ValueError:
        return value


def texts(substitutions):
    """Names and texts for a template, but for those that every mail gives itself."""
    own = ("ticket_number", "events_as_csv")
    return {str(name): "" if text is None else str(text)
            for name, text in dict(substitutions or {}).items() if name not in own}


def _template_for_generator(template):
    """A template as outbox-generator takes it: the name of a file, or subject and body."""
    subject, body = (getattr(template, part, None) for part in ("subject", "body"))
    own = getattr(type(template), "substitute", None) is not Template.substitute
    if own or not all(isinstance(part, string.Template) for part in (subject, body)):
        raise NotificationError("%r is no template: make one with Template.from_strings() or "
                                "read_template()" % (template,))
    if template.file_name is not None:
        return {"template": template.file_name}
    return {"subject": subject.template, "body": body.template}


class Mail:
    """A mail that outbox-generator is going to make. It can be passed on, and not looked into."""

    def __init__(self, plan, draw_ticket):
        self._plan = plan
        self._draw_ticket = draw_ticket

    def _refuse(self, *_):
        raise NotOffered("there is no mail to look at yet: outbox-generator makes and signs it "
                                "when the script is done")

    __getitem__ = __setitem__ = __contains__ = __iter__ = __len__ = __str__ = _refuse

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        self._refuse()


class Notification:
    """An answer to a group."""

    def __init__(self, directive):
        self.directive = directive

    def send(self, context):
        raise NotOffered("scripts send nothing: return the notification")


class EmailNotification(Notification):
    """A mail, whom it goes to, and whether the directives are sent when it is."""

    mark_as_sent = True

    def __init__(self, directive, email, ticket=None, envelope_tos=None, mark_as_sent=True):
        if not isinstance(email, Mail):
            raise NotOffered("mails of a script's own making can not be sent: use "
                                    "mail_format_as_csv()")
        super().__init__(directive)
        self.email = email
        self.envelope_tos = envelope_tos
        self.mark_as_sent = mark_as_sent
        self._ticket = ticket or None

    @property
    def ticket(self):
        """The mail's ticket number. It is drawn when somebody asks for it."""
        if self._ticket is None:
            self._ticket = self.email._draw_ticket()
        return self._ticket

    @ticket.setter
    def ticket(self, ticket):
        self._ticket = ticket

    def __repr__(self):
        return "EmailNotification(ticket=%r)" % (self._ticket,)

    def for_generator(self):
        """The notification as outbox-generator takes it."""
        plan = dict(self.email._plan)
        plan["mark_sent"] = bool(self.mark_as_sent)
        if self._ticket is not None:
            plan["ticket"] = str(self._ticket)
        if self.envelope_tos is not None:
            tos = self.envelope_tos
            plan["envelope_to"] = [tos] if isinstance(tos, str) else [str(to) for to in tos]
        return plan


class _Postponed:
    """The group is for the script, but has to wait."""

    def __bool__(self):
        return True

    def __len__(self):
        return 0

    def __iter__(self):
        return iter(())

    def __repr__(self):
        return "Postponed"


#: What create_notifications returns to have a group wait.
Postponed = _Postponed()
