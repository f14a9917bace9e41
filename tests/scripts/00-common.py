"""Sets texts for the scripts behind it, and gives the mails of one constituency a copy."""
import functools

from intelmqmail.notification import ScriptContext

COPIES = {"Government": "internal-gov@cert.example"}


def mail_with_copy(context, original, *args, **kw):
    """What the context does, twice: the second time for internal eyes, with the same ticket."""
    notifications = original(*args, **kw)
    copy_to = COPIES[context.directive.get_aggregation_item("recipient_group")]
    copy = dict(kw, envelope_tos=[copy_to], mark_as_sent=False, attach_event_data=True,
                ticket_number=notifications[0].ticket)
    return notifications + original(*args, **copy)


def create_notifications(context):
    assert isinstance(context, ScriptContext)
    common = dict(context.substitutions)
    common["signature"] = context.config["team"] + " $1"
    common["count"] = len(set(context.directive.event_ids))
    if "source.asn" in context.directive.aggregate_identifier:
        common["network"] = "AS " + context.directive.get_aggregation_item("source.asn")
    context.substitutions = common
    if context.directive.get_aggregation_item("recipient_group") in COPIES:
        context.mail_format_as_csv = functools.partial(
            mail_with_copy, context, context.mail_format_as_csv)
    context.logger.info("common texts for %s", context.directive["recipient_address"])
