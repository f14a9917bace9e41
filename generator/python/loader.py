# Starts the runner: the program comes on standard input, so that no file of it needs to be installed.
import json, os, sys
channel = os.fdopen(os.dup(0), "rb")
sources = json.loads(channel.readline().decode("utf-8"))
program = {"__name__": "runner"}
exec(compile(sources["runner"], "<outbox runner>", "exec"), program)
program["main"](channel, sources)
