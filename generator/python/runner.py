"""Runs scripts written for IntelMQ Mailgen, for outbox-generator.

It speaks JSON, one value a line, as docs/scripts.md of Outbox for IntelMQ tells for scripts in any
language, and with these lines besides: `{"start": …}` once, `{"load": path}` for each script, and
`{"script": path, …}` to ask one, whose fields are left out where the group is still the same. It answers
`{"exception": …}` where a script ended with one.

Standard output is the generator's alone: what scripts print there goes to standard error.
"""

import datetime
import json
import logging
import os
import select
import sys
import threading
import traceback
import types


class Host:
    """outbox-generator, at the other end of the two pipes."""

    #: The configured sender of mails.
    sender = None

    def __init__(self, channel):
        self._in = channel
        self._out = os.fdopen(os.dup(1), "wb")
        self._lock = threading.RLock()
        self._asked = False
        # Neither scripts nor what they start can get between two lines.
        os.dup2(2, 1)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.close(nothing)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")

    def pipe(self):
        """The pipe that the generator reads from."""
        return self._out.fileno()

    def hear(self):
        """The next line, or None at the end."""
        line = self._in.readline()
        self._asked = True
        return json.loads(line.decode("utf-8")) if line else None

    def answer(self, value):
        """Says what the generator asked for. After that nothing is said until it asks again."""
        with self._lock:
            try:
                self.say(value)
            except (TypeError, ValueError) as error:
                self.say({"error": "what the script returned can not be passed on: %s" % error})
            self._asked = False

    def log(self, level, text):
        """Has a line logged. One of a thread that goes on by itself is just printed."""
        with self._lock:
            if self._asked:
                self.say({"log": {"level": level, "text": without_surrogates(text)}})
            else:
                print(text, file=sys.stderr)

    def say(self, value):
        """Says a line. A ValueError if there is half of a surrogate pair in it, as Python has for a
        byte that is no UTF-8, and for what is escaped so in JSON: nobody else takes it for text."""
        line = json.dumps(value, allow_nan=False, ensure_ascii=False).encode("utf-8")
        with self._lock:
            self._out.write(line + b"\n")
            self._out.flush()

    def ask(self, question):
        """Says a line, and hears the answer to it."""
        from intelmqmail.notification import NotificationError
        with self._lock:
            self.say(question)
            answer = self.hear()
        if answer is None:
            os._exit(0)
        if "error" in answer:
            raise NotificationError(answer["error"])
        return answer


def without_surrogates(text):
    """The text with halves of surrogate pairs as they are written in Python."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class LogHandler(logging.Handler):
    """Passes log records on."""

    def __init__(self, host):
        super().__init__()
        self._host = host

    def emit(self, record):
        try:
            self._host.log(level(record.levelno), self.format(record))
        except Exception:
            self.handleError(record)


def level(number):
    """The nearest level that outbox-generator has."""
    for name in ("ERROR", "WARNING", "INFO"):
        if number >= getattr(logging, name):
            return name
    return "DEBUG"


class Runner:
    """The scripts, and the group in hand."""

    def __init__(self, host, config, log_level):
        from intelmqmail import notification
        self._notification = notification
        self._host = host
        self._config = config
        host.sender = config.get("sender")
        self._entries = {}
        self._context = None
        self._given = {}
        root = logging.getLogger()
        root.addHandler(LogHandler(host))
        root.setLevel(log_level)
        self._logger = logging.getLogger("intelmqmail")

    def load(self, path):
        """Loads a script: null, or what is wrong with it."""
        try:
            with open(path, "rb") as file:
                program = compile(file.read(), path, "exec")
            script = {}
            exec(program, script)
            entry = script.get("create_notifications")
            if not callable(entry):
                return {"error": "it has no function create_notifications"}
            self._entries[path] = entry
        except BaseException as error:
            return {"error": self._tell(error, path)}
        return None

    def ask(self, request):
        """What a script makes of the group."""
        path = request["script"]
        if "recipient_address" in request:
            self._begin(request)
        context = self._context
        self._given = request["substitutions"]
        if isinstance(context.substitutions, dict):
            # What the script before this one set is among them, but for what a later file changed.
            for name, text in self._given.items():
                if str(context.substitutions.get(name)) != text:
                    context.substitutions[name] = text
        try:
            return self._answer(self._entries[path](context))
        except self._notification.NotOffered as error:
            return {"error": self._tell(error, path)}
        except Exception as error:
            return {"exception": self._tell(error, path)}
        except BaseException as error:
            return {"error": self._tell(error, path)}

    def _begin(self, request):
        time = self._notification.parse_timestamp
        last_sent = request["last_sent"]
        directive = self._notification.Directive(
            recipient_address=request["recipient_address"],
            template_name=request["template_name"],
            notification_format=request["notification_format"],
            event_data_format=request["event_data_format"],
            aggregate_identifier=request["aggregate_identifier"],
            event_ids=request["event_ids"],
            directive_ids=request["directive_ids"],
            inserted_at=time(request["inserted_at"]),
            notification_interval=datetime.timedelta(seconds=request["notification_interval"]),
            last_sent=None if last_sent is None else time(last_sent),
        )
        self._context = self._notification.ScriptContext(
            self._host, self._config, directive, self._logger, time(request["now"]),
            dict(request["substitutions"]))

    def _answer(self, notifications):
        if notifications is self._notification.Postponed:
            return {"postponed": True}
        if not notifications:
            return self._pass()
        mails = []
        for notification in notifications:
            if not isinstance(notification, self._notification.EmailNotification):
                raise TypeError("create_notifications returned %s among its notifications"
                                % type(notification).__name__)
            if type(notification).send is not self._notification.Notification.send:
                raise self._notification.NotOffered("%s has a method send, which nobody would call"
                                                    % type(notification).__name__)
            mails.append(notification.for_generator())
        return {"notifications": mails}

    def _pass(self):
        """Not this script's group; what it set in the context may be of use for later rules."""
        own = self._context.substitutions
        if isinstance(own, dict):
            new = {name: text for name, text in self._notification.texts(own).items()
                   if self._given.get(name) != text}
            if new:
                return {"substitutions": new}
        return None

    def _tell(self, error, path):
        """What went wrong, and in which line of the script."""
        try:
            words = str(error)
        except BaseException:
            words = "(it can not be told)"
        line = None
        if isinstance(error, SyntaxError) and error.filename == path:
            words, line = error.msg, error.lineno
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename == path:
                line = frame.lineno
        kind = type(error).__name__
        told = "%s: %s" % (kind, words[:2000]) if words else kind
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("%s", "".join(traceback.format_exception(
                type(error), error, error.__traceback__))[-8000:])
        told = told if line is None else "line %d: %s" % (line, told)
        return without_surrogates(told)


def provide(modules):
    """Makes the modules importable that scripts ask for: pairs of name and source."""
    for name, source in modules:
        module = types.ModuleType(name)
        package, _, short = name.rpartition(".")
        if package:
            module.__package__ = package
            setattr(sys.modules[package], short, module)
        else:
            module.__path__ = []
        sys.modules[name] = module
        exec(compile(source, "<outbox %s>" % name, "exec"), module.__dict__)


def end_with(pipe):
    """Waits until nobody reads from the pipe, and ends whatever a script is at."""
    poll = select.poll()
    # What has to be told is told without being asked for.
    poll.register(pipe, 0)
    poll.poll()
    os._exit(1)


def main(channel, sources):
    """Answers line by line, until there are no more."""
    host = Host(channel)
    threading.Thread(target=end_with, args=(host.pipe(),), daemon=True).start()
    provide(sources["modules"])
    start = host.hear()["start"]
    runner = Runner(host, start["config"], start["level"])
    while True:
        request = host.hear()
        if request is None:
            break
        host.answer(runner.load(request["load"]) if "load" in request else runner.ask(request))
