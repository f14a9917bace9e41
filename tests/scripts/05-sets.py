"""Sets what Mailgen heeds: of a directive, of the configuration, of a notification."""
from intelmqmail.notification import EmailNotification
from intelmqmail.templates import Template


class Sends(EmailNotification):
    """Wants to be asked to send itself."""

    def send(self, context):
        raise AssertionError("nobody asks")


def create_notifications(context):
    directive = context.directive
    how = directive.event_data_format
    if how == "aggregate":
        directive.aggregate_identifier["word"] = "added"
    if how == "recipient":
        directive.recipient_address = "test@cert.example"
    if how == "directives":
        directive.directive_ids = []
    if how == "changed":
        directive.aggregate_identifier["source.asn"] = "AS64496"
    if how == "sender":
        context.config["sender"] = "other@cert.example"
    # A key of the aggregate identifier goes before what a script names otherwise.
    mails = context.mail_format_as_csv(template=Template.from_strings("${source.asn} ${word}", ""),
                                       substitutions={"word": "not this"})
    if how == "send":
        return [Sends(directive, mail.email) for mail in mails]
    return mails
