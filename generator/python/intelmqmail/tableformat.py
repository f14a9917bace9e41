"""Descriptions of the table of events that a mail carries."""

import csv
import datetime
import io
import json


class TableFormat:
    """A name and a list of columns."""

    def __init__(self, name, columns):
        self.name = name
        self.columns = columns

    def column_titles(self):
        """The title of each column, by its key."""
        return {column.column_key: column.title for column in self.columns}

    def event_table_columns(self):
        """The columns of the table `events` that the values come from."""
        return list({column.event_table_column for column in self.columns})

    def column_keys(self):
        """The keys of the columns, in their order."""
        return [column.column_key for column in self.columns]

    def row_from_event(self, event):
        """The values of an event, by the columns' keys."""
        return {column.column_key: column.value_from_event(event) for column in self.columns}


class Column:
    """A column with a title.

    Subclasses have `event_table_column`, the column of the table `events` that is needed;
    `column_key`, unique in a format; and `value_from_event(event)`.
    """

    def __init__(self, title):
        self.title = title


class IntelMQColumn(Column):
    """A column that shows a field of events."""

    def __init__(self, title, field_name):
        super().__init__(title)
        self.field_name = field_name

    @property
    def event_table_column(self):
        return self.field_name

    @property
    def column_key(self):
        return self.field_name

    def value_from_event(self, event):
        return event[self.field_name]


class ExtraColumn(Column):
    """A column that shows a key of the JSON in the column `extra`."""

    def __init__(self, title, extra_key):
        super().__init__(title)
        self.extra_key = extra_key

    @property
    def event_table_column(self):
        return "extra"

    @property
    def column_key(self):
        return "extra:" + self.extra_key

    def value_from_event(self, event):
        extra = event["extra"]
        if isinstance(extra, str):
            extra = json.loads(extra)
        return None if extra is None else extra.get(self.extra_key)


def build_table_formats(formats):
    """Formats by their names, from a list of pairs: name, columns."""
    return {name: build_table_format(name, columns) for name, columns in formats}


def build_table_format(name, columns):
    """A format, from columns as build_table_column takes them."""
    return TableFormat(name, [build_table_column(column) for column in columns])


def build_table_column(col):
    """A column, from a pair of field and title, in which the field can be "extra.KEY"; any other
    object is a column already."""
    if not isinstance(col, tuple):
        return col
    field, title = col
    # Of "extra" alone Mailgen shows nothing: it takes it for a key without a name. To show all that is there
    # would tell recipients who else was notified.
    first, _, key = field.partition(".")
    return ExtraColumn(title, key) if first == "extra" else IntelMQColumn(title, field)


def format_as_csv(table_format, events):
    """The events as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, table_format.column_keys(), quoting=csv.QUOTE_ALL)
    writer.writerow(table_format.column_titles())
    for event in events:
        row = table_format.row_from_event(event)
        writer.writerow({key: _shown(key, value) for key, value in row.items()})
    return text.getvalue()


def _shown(key, value):
    """A value as the table shows it: `time.source`, which is in UTC, in a short form."""
    if key == "time.source" and isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None, microsecond=0)
    return value


def columns_for_generator(table_format, load_events):
    """The columns as outbox-generator takes them: it finds the values of fields itself, those that
    only a script knows come with the columns. `load_events` is asked for what those need."""
    if _is_plain(table_format):
        columns = [_plain(column) for column in table_format.columns]
        if all(columns):
            return columns
    needed = set(table_format.event_table_columns())
    events = load_events(sorted(needed | {"id"}))
    titles, keys = table_format.column_titles(), table_format.column_keys()
    columns = [{"title": str(titles[key]), "values": {}} for key in keys]
    for event in events:
        row = table_format.row_from_event(event)
        for key, column in zip(keys, columns):
            value = _shown(key, row.get(key))
            column["values"][str(event["id"])] = "" if value is None else str(value)
    return columns


def _is_plain(table_format):
    """Whether the format shows the columns' titles and values as they are."""
    methods = ("column_titles", "column_keys", "row_from_event")
    kind = type(table_format)
    return all(getattr(kind, name, None) is getattr(TableFormat, name) for name in methods)


def _plain(column):
    """A column whose values are a field's, or None."""
    value_from_event = getattr(type(column), "value_from_event", None)
    if "value_from_event" in getattr(column, "__dict__", {}):
        return None
    if value_from_event is IntelMQColumn.value_from_event:
        return {"field": column.field_name, "title": str(column.title)}
    if value_from_event is ExtraColumn.value_from_event and column.extra_key:
        return {"field": "extra." + column.extra_key, "title": str(column.title)}
    return None
