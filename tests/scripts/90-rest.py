"""What no other script took."""


def create_notifications(context):
    return context.mail_format_as_csv(substitutions=context.substitutions)
