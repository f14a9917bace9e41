"""Reads mails as a receiver does: python3 -c … GNUPG_HOME FILE… → a JSON list, one object a file.

The signed part is cut out of the file's bytes (RFC 1847, 2.1): what Python would write again need not be what was signed.
"""

import email
import email.policy
import json
import subprocess
import sys
import tempfile


def read(home, path):
    with open(path, "rb") as file:
        raw = file.read()
    if b"\r\n" not in raw:
        # Stored by a relay with the line ends of this system.
        raw = raw.replace(b"\n", b"\r\n")
    message = email.message_from_bytes(raw, policy=email.policy.default)
    parts = list(message.walk())
    # A signed report of X-ARF 0.2 is a mail in a mail.
    enclosed = [part.get_content() for part in parts if part.get_content_type() == "message/rfc822"]
    content = enclosed[0] if enclosed else message
    body = content.get_body(("plain",))
    attachments = [part for part in content.walk() if part.get_content_disposition() == "attachment"]
    assert len(attachments) <= 1, path
    signed_by, words = None, ""
    if message.get_content_type() == "multipart/signed":
        assert message["Content-Type"].params["protocol"] == "application/pgp-signature", path
        signed, signature = message.iter_parts()
        assert signature.get_content_type() == "application/pgp-signature", path
        delimiter = b"\r\n--" + message.get_boundary().encode() + b"\r\n"
        _, signed, _ = raw.split(delimiter)
        signed_by, words = verify(home, signed, signature.get_content(), message["Content-Type"].params["micalg"])
    return {
        "header": {name.lower(): str(value) for name, value in message.items()
                   if name.lower() not in ("received", "return-path", "delivered-to", "x-original-to")},
        "content_type": message.get_content_type(),
        "text": body.get_content(),
        "attachment": [attachments[0].get_filename(), decoded(attachments[0])] if attachments else None,
        "defects": [repr(defect) for part in parts for defect in part.defects]
                   + [repr(defect) for value in message.values() for defect in value.defects],
        "signed_by": signed_by,
        "gpg": words,
    }


def decoded(part):
    # As the bytes say it: get_content() would make other line ends of them.
    return part.get_payload(decode=True).decode(part.get_content_charset("utf-8"))


def verify(home, signed, signature, micalg):
    if isinstance(signature, str):
        signature = signature.encode()
    with tempfile.NamedTemporaryFile() as file:
        file.write(signature)
        file.flush()
        gpg = subprocess.run(
            ["gpg", "--homedir", home, "--batch", "--status-fd", "1", "--verify", file.name, "-"],
            input=signed, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    status = gpg.stdout.decode()
    for line in status.splitlines():
        fields = line.split()
        if gpg.returncode == 0 and fields[1:2] == ["VALIDSIG"]:
            # RFC 9580, 9.5: the number of the hash that was used.
            hashes = {"8": "pgp-sha256", "9": "pgp-sha384", "10": "pgp-sha512"}
            assert micalg == hashes[fields[9]], f"{micalg} is not what signed: {line}"
            return fields[2], status
    return None, status + gpg.stderr.decode()


print(json.dumps([read(sys.argv[1], path) for path in sys.argv[2:]]))
