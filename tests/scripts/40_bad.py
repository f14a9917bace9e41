"""Misbehaves, as the directive's event data format says."""
import os
import sys


def create_notifications(context):
    if context.directive.notification_format != "bad":
        return None
    how = context.directive.event_data_format
    if how == "exception":
        return 1 / 0
    if how == "exit":
        sys.exit(3)
    if how == "crash":
        os._exit(4)
    if how == "hang":
        while True:
            pass
    if how == "recursion":
        return create_notifications(context)
    if how == "lines":
        return [line for line in range(1000000)]
    if how == "unmarked":
        return context.mail_format_as_csv(mark_as_sent=False)
    if how == "noise":
        print("printed\x1b[31m by the script")
        os.write(1, b"written\n" * 1000)
        return context.mail_format_as_csv()
    raise ValueError(how)
