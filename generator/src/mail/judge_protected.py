"""Reads every mail of a folder as a receiver does who has the keys: python3 -c … FOLDER GNUPG_HOME.

gpg decrypts and verifies, Python's `email` judges the structure. Both are compared to what the JSON beside the mail says.
"""

import email
import email.policy
import json
import pathlib
import subprocess
import sys

STRUCTURAL = ("MIME-Version", "Content-Type", "Content-Transfer-Encoding", "Content-Disposition")
UNPROTECTED = STRUCTURAL + ("Autocrypt", "HP-Outer")


def read(raw):
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert not mail.defects, mail.defects
    return mail


def fields(mail):
    return [(name, str(value)) for name, value in mail.items() if name not in UNPROTECTED]


def written_fields(raw):
    """As they are written, but for the line ends."""
    mail = email.message_from_bytes(raw, policy=email.policy.compat32)
    return [(name, " ".join(value.split())) for name, value in mail.items()]


def text_of(part):
    return part.get_payload(decode=True).decode(part.get_content_charset())


def decrypted(mail, want, home):
    assert mail.get_content_type() == "multipart/encrypted"
    assert mail.get_param("protocol") == "application/pgp-encrypted"
    version, message = mail.get_payload()
    assert version.get_content_type() == "application/pgp-encrypted"
    assert version.get_payload(decode=True) == b"Version: 1\r\n"
    assert message.get_content_type() == "application/octet-stream"
    command = ["gpg", "--homedir", home, "--batch", "--quiet", "--status-fd", "2", "--decrypt"]
    gpg = subprocess.run(command, input=message.get_payload(decode=True), capture_output=True)
    status = gpg.stderr.decode()
    assert gpg.returncode == 0, status
    words = [line.split() for line in status.splitlines()]
    assert [line[2] for line in words if line[1:2] == ["VALIDSIG"]] == want["signed_by"], status
    assert len([line for line in words if line[1:2] == ["ENC_TO"]]) == want["keys"], status
    assert b"\n" not in gpg.stdout.replace(b"\r\n", b""), "line ends"
    return gpg.stdout


def judge(raw, want, home):
    mail = read(raw)
    inside = b""
    if want["wrapping"] == "none":
        payload = mail
    elif want["wrapping"] == "signature":
        assert mail.get_content_type() == "multipart/signed"
        payload = mail.get_payload()[0]
    else:
        inside = decrypted(mail, want, home)
        payload = read(inside)
    hp = payload.get_param("hp")
    assert hp == want["hp"], hp
    outside = want["subject"] if hp != "cipher" else "[...]"
    assert mail["Subject"] == outside, mail["Subject"]
    if hp is None:
        assert payload is mail or fields(payload) == [], fields(payload)
    else:
        assert fields(payload) == [(name, want["subject"] if name == "Subject" else value) for name, value in fields(mail)]
    told = [value.split(": ", 1) for name, value in written_fields(inside) if name == "HP-Outer"]
    expected = [[name, value] for name, value in written_fields(raw) if name not in UNPROTECTED]
    assert told == (expected if hp == "cipher" else []), (told, expected)

    text = payload
    while text.is_multipart():
        text = text.get_payload()[0]
    subject = f"Subject: {want['subject']}\r\n\r\n" if hp == "cipher" else ""
    assert text.get_param("hp-legacy-display") == ("1" if subject else None)
    assert text_of(text) == subject + want["body"].replace("\n", "\r\n"), text_of(text)
    files = payload.get_payload()[1:] if payload.is_multipart() else []
    assert [file.get_payload(decode=True).decode() for file in files] == want["files"]


count = 0
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.eml")):
    try:
        judge(path.read_bytes(), json.loads(path.with_suffix(".json").read_text()), sys.argv[2])
    except Exception as error:
        line = error.__traceback__.tb_next.tb_lineno
        sys.exit(f"{path.name}: line {line}: {type(error).__name__}: {error}")
    count += 1
print(count)
