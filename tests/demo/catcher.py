"""An SMTP server that keeps every mail, byte for byte, in a Maildir, and relays none.

    catcher.py MAILDIR PORT PIDFILE

It listens on 127.0.0.1 only. PORT 0 takes a free one. Once it listens it prints the port, and nothing after that.
It holds a lock (flock) on PIDFILE as long as it lives: whoever gets the lock knows that it has ended. SIGTERM ends it.
"""

import asyncio
import fcntl
import itertools
import os
import signal
import sys
import time

from aiosmtpd.smtp import SMTP

numbers = itertools.count(1)


class Keep:
    """Stores what was sent, without a header added, and says who it was for in the log."""

    def __init__(self, maildir):
        self.maildir = maildir
        for folder in ("tmp", "new", "cur"):
            os.makedirs(os.path.join(maildir, folder), exist_ok=True)

    async def handle_DATA(self, server, session, envelope):
        name = f"{time.time():.6f}.P{os.getpid()}Q{next(numbers)}.catcher"
        draft = os.path.join(self.maildir, "tmp", name)
        with open(draft, "wb") as file:
            # `content` may have been decoded; this is what came over the wire, its dots unstuffed.
            file.write(envelope.original_content)
        os.rename(draft, os.path.join(self.maildir, "new", name))
        print(f"{name} from <{envelope.mail_from}> to {envelope.rcpt_tos}", file=sys.stderr, flush=True)
        return f"250 2.0.0 caught as {name}"


async def main(maildir, port, pid_file):
    with open(pid_file, "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)

        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, end.set)
        keep = Keep(maildir)
        # With a name given, it does not ask the resolver for its own, which takes long where there is none.
        server = await loop.create_server(
            lambda: SMTP(keep, hostname="catcher.example", enable_SMTPUTF8=True), "127.0.0.1", int(port)
        )
        print(server.sockets[0].getsockname()[1], flush=True)
        await end.wait()
        server.close()


asyncio.run(main(*sys.argv[1:]))
