"""Does what the shipped format definitions do, by the ways that Mailgen's scripts have."""
import fnmatch
import glob
import re
import tomllib

from intelmqmail.notification import InvalidDirective, Postponed
from intelmqmail.tableformat import Column, build_table_column, build_table_format
from intelmqmail.templates import Template

KEYS = ("notification_format", "event_data_format", "template_name", "recipient_address")


def matches(patterns, text):
    if isinstance(patterns, str):
        patterns = [patterns]
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)


def meets(condition, directive):
    assert set(condition) <= set(KEYS), condition
    return all(matches(patterns, directive[key]) for key, patterns in condition.items())


class WorkedOut(Column):
    """Another column, whose values are worked out here."""

    def __init__(self, pair):
        self.column = build_table_column(pair)
        super().__init__(self.column.title)
        self.event_table_column = self.column.event_table_column
        self.column_key = self.column.column_key

    def value_from_event(self, event):
        return self.column.value_from_event(event)


def table_format(rule, titles, kind):
    columns = []
    for column in rule["columns"]:
        if isinstance(column, dict):
            columns.append((column["field"], column["title"]))
        else:
            columns.append((column, titles.get(column, re.sub("^extra[.]", "", column))))
    return build_table_format(rule["name"], [kind(pair) for pair in columns])


def rules(folder, kind):
    for path in sorted(glob.glob(folder + "/[1-9]*.toml")):
        with open(path, "rb") as file:
            definitions = tomllib.load(file)
        for rule in definitions["format"]:
            if "xarf" in str(rule.get("data")):
                continue  # Reports are made by definitions alone.
            yield rule, table_format(rule, definitions.get("titles", {}), kind)


def where(rule, directive):
    data = rule.get("data", "inline")
    if isinstance(data, str):
        return data
    return next((form for form, patterns in data.items()
                 if matches(patterns, directive.event_data_format)), None)


def has_to_wait(postpone, context):
    def minutes(age):
        return int(age[:-1]) * {"m": 1, "h": 60}[age[-1]]

    def young(age, limit):
        if age is None:
            raise InvalidDirective("no time.observation")
        return limit is not None and age.total_seconds() < 60 * minutes(limit)

    if postpone.get("within_notification_interval") and not context.notification_interval_exceeded():
        return True
    directive = postpone.get("newest_directive_younger_than")
    if directive and young(context.age_of_newest_directive(), directive):
        return True
    observation = postpone.get("observation_younger_than")
    return bool(observation) and young(context.age_of_observation(), observation)


FORMATS = None


def create_notifications(context):
    global FORMATS
    if FORMATS is None:
        kind = WorkedOut if context.config["work_out"] else tuple
        FORMATS = list(rules(context.config["definitions"], kind))
    directive = context.directive
    for rule, format_spec in FORMATS:
        form = where(rule, directive)
        if form is None or not meets(rule.get("when", {}), directive):
            continue
        if "unless" in rule and meets(rule["unless"], directive):
            continue
        if has_to_wait(rule.get("postpone", {}), context):
            return Postponed
        template = None
        if "subject" in rule:
            template = Template.from_strings(rule["subject"], rule["body"])
        return context.mail_format_as_csv(format_spec, template=template,
                                          attach_event_data=form == "attachment")
    return None
