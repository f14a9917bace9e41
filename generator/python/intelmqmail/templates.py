"""Mail templates, as scripts make and read them."""

import os
import string


class IntelMQStringTemplate(string.Template):
    """A string.Template whose names can have dots in them, as IntelMQ's fields do."""

    idpattern = "(?a:[_a-z](?:[_a-z0-9.]*[_a-z0-9])?)"


class Template:
    """A subject and a body with placeholders."""

    #: The name of the file it was read from, below the template folder.
    file_name = None

    def __init__(self, subject, body):
        self.subject = subject
        self.body = body

    @classmethod
    def from_strings(cls, subject, body):
        """Makes a template of two texts."""
        return cls(IntelMQStringTemplate(subject), IntelMQStringTemplate(body))

    def __repr__(self):
        return "Template(%r, %r)" % (self.subject, self.body)

    def substitute(self, substitutions):
        """Subject and body, with values in the places of the placeholders."""
        return self.subject.substitute(substitutions), self.body.substitute(substitutions)


def full_template_filename(template_dir, template_name):
    """The path of a template; ValueError if the name leads out of the folder."""
    folder = os.path.realpath(template_dir)
    path = os.path.realpath(os.path.join(folder, template_name))
    if not path.startswith(folder + os.sep):
        raise ValueError("the template %r is not in the folder %r" % (template_name, template_dir))
    return path


def read_template(template_dir, template_name, templates=None):
    """Reads a template: the first line that is not empty is the subject, the rest the body.

    `templates` is a dictionary of templates that go before the files.
    """
    if templates and template_name in templates:
        return templates[template_name]
    path = full_template_filename(template_dir, template_name)
    # Opening a pipe would wait for its writer.
    if not os.path.isfile(path):
        raise FileNotFoundError("there is no template %r in %r" % (template_name, template_dir))
    with open(path, encoding="utf-8-sig") as file:
        subject, _, body = file.read().strip().partition("\n")
    if not subject:
        raise ValueError("the template %r is empty" % template_name)
    template = Template.from_strings(subject.strip(), body.strip() + "\n")
    template.file_name = template_name
    return template
