"""What scripts written for IntelMQ Mailgen import, as the runner of Outbox for IntelMQ offers it.

There is no database connection, no key and no SMTP here: scripts say what mails are to be, and
outbox-generator makes them.
"""
