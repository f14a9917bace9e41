"""Has groups wait, and refuses one."""
import datetime

from intelmqmail.notification import InvalidDirective, NotificationError, Postponed, parse_timestamp


def create_notifications(context):
    directive = context.directive
    if directive.notification_format == "interval" and not context.notification_interval_exceeded():
        return Postponed
    if directive.notification_format == "young":
        assert context.age_of_observation() is None
        assert context.now.tzinfo is not None
        if context.age_of_newest_directive() < datetime.timedelta(hours=2):
            return Postponed
    if directive.notification_format == "observed":
        age = context.age_of_observation()
        observed = parse_timestamp(directive.aggregate_identifier["time.observation"])
        assert context.now - observed == age
        if age < datetime.timedelta(hours=2):
            return Postponed
    if directive.get("notification_format") == "refused":
        assert issubclass(InvalidDirective, NotificationError)
        assert directive.get("nosuch") is None
        raise InvalidDirective("no such format: %r" % directive.event_data_format)
    return None
