"""Tables with columns of all kinds."""
from intelmqmail.tableformat import (Column, ExtraColumn, IntelMQColumn, TableFormat,
                                     build_table_column, build_table_format, build_table_formats)


class LastOctet(Column):
    """A value that only this script knows."""

    event_table_column = "source.ip"
    column_key = "last_octet"

    def value_from_event(self, event):
        return int(event["source.ip"].rsplit(".", 1)[1])


FORMATS = build_table_formats([
    ("csv_plain", (
        ("source.asn", "asn"),
        ("time.source", "timestamp"),
        ("extra.tag", "tag"),
        ExtraColumn("deep key", "os.name"),
        IntelMQColumn("address", "source.ip"),
    )),
    ("csv_computed", (
        ("time.source", "timestamp"),
        LastOctet("octet"),
        ("extra.tag", "tag"),
    )),
])
FORMATS["csv_direct"] = TableFormat("direct", [build_table_column(("source.ip", "ip"))])
FORMATS["csv_extra"] = build_table_format("extra", [("source.ip", "ip"), ("extra", "all")])
FORMATS["csv_single"] = build_table_format("single", [("source.ip", "the ip")])


def create_notifications(context):
    if context.directive.notification_format != "table":
        return []
    data_format, _, where = context.directive.event_data_format.partition("/")
    return context.mail_format_as_csv(FORMATS[data_format], substitutions=context.substitutions,
                                      attach_event_data=where == "attached")
