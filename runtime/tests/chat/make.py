"""Writes expected.json: each template here with each conversation, rendered by jinja2 as transformers renders it.

The templates are of the public styles that their names say. Needs jinja2 (3.1) alone.
"""

import json
from datetime import datetime
from pathlib import Path

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
CONVERSATIONS = {
    "one": [("user", "Hello there")],
    "system": [("system", "Be brief. "), ("user", " What is a kernel?\n")],
    "turns": [("user", "Hi"), ("assistant", " Hello! "), ("user", '{"a": "é <b>"}'), ("assistant", ""),
              ("user", "bye")],
    "order": [("user", "one"), ("user", "two")],
    "tool": [("user", "x"), ("tool", "42")],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


class Generation(Extension):
    """transformers' mark of what the assistant wrote."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])

    def raise_exception(message):
        raise TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    # 2024-02-29 12:34:56, as the test has it.
    env.globals["strftime_now"] = lambda form: datetime(2024, 2, 29, 12, 34, 56).strftime(form)
    return env


def main():
    env, cases = environment(), []
    for path in sorted(HERE.glob("*.jinja")):
        template = env.from_string(path.read_text())
        for name, turns in CONVERSATIONS.items():
            messages = [{"role": role, "content": content} for role, content in turns]
            for reply in (False, True):
                case = {"template": path.name, "name": name, "messages": messages, "reply": reply}
                variables = {"tools": None, "documents": None, "add_generation_prompt": reply, **TOKENS}
                try:
                    case["text"] = template.render(messages=messages, **variables)
                except TemplateError as error:
                    case["error"] = str(error)
                cases.append(case)
    (HERE / "expected.json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
