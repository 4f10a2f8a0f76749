"""Compares chat templates rendered by jinja2, set up as transformers sets it up, and by the crate in ../bridge.

usage: python compare_templates.py [--verbose]
needs: pip install jinja2==3.1.6, cargo, and pip's index, from which it fetches the templates of models in use that
llama-cpp-python's source package holds (77 MB; they are not ours, and stay in a temporary folder)

It prints, for the templates of goldens.json, for those of models, and for the single constructs of constructs.json, how many
renderings are equal, how many different, how many only one of both refuses, and how many both refuse.
"""
import collections, datetime, json, os, subprocess, sys, tarfile, tempfile

import jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

here = os.path.dirname(os.path.abspath(__file__))


class Generation(jinja2.ext.Extension):
    """transformers' block around the assistant's text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def reference(source, contexts):
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.datetime(2024, 7, 26).strftime(format)
    out = []
    for context in contexts:
        try:
            out.append(("ok", environment.from_string(source).render(**context)))
        except Exception as error:  # whatever it is, jinja2 refuses
            out.append(("error", f"{type(error).__name__}: {error}"))
    return out


def templates_of_models():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "--no-binary", ":all:", "-d", folder, "llama-cpp-python==0.3.36"],
            check=True,
        )
        (archive,) = os.listdir(folder)
        with tarfile.open(os.path.join(folder, archive)) as package:
            for member in sorted(package.getmembers(), key=lambda m: m.name):
                if "/models/templates/" in member.name and member.name.endswith(".jinja"):
                    yield os.path.basename(member.name), package.extractfile(member).read().decode()


def main():
    with open(os.path.join(here, "goldens.json"), encoding="utf-8") as f:
        goldens = json.load(f)
    with open(os.path.join(here, "constructs.json"), encoding="utf-8") as f:
        constructs = json.load(f)
    contexts = [
        {"messages": chat, "add_generation_prompt": generate, "tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
        for chat in goldens["chats"] for generate in (False, True)
    ]
    sets = {
        "goldens": list(goldens["templates"].items()), "models": list(templates_of_models()),
        "constructs": [(c, c if c.startswith("{") else "{{ " + c + " }}") for c in constructs],
    }
    for name, cases in sets.items():
        few = contexts[2:3] if name == "constructs" else contexts
        done = subprocess.run(
            ["cargo", "run", "-q", "--release", "--locked", "--example", "render", "--manifest-path", os.path.join(here, "../bridge/Cargo.toml")],
            input=json.dumps([[source, few] for _, source in cases]), capture_output=True, text=True, check=True,
        )
        counts = collections.Counter()
        for (case, source), ours in zip(cases, json.loads(done.stdout)):
            for theirs, our in zip(reference(source, few), ours):
                kind = {
                    (True, True): "equal" if theirs[1] == our[1] else "different", (False, False): "refused by both",
                    (True, False): "refused here", (False, True): "refused by jinja2",
                }[theirs[0] == "ok", our[0] == "ok"]
                counts[kind] += 1
                if "--verbose" in sys.argv and kind not in ("equal", "refused by both"):
                    print(f"{name}: {case[:100]!r}: {kind}\n  jinja2 {theirs[1][-200:]!r}\n  here   {our[1][-200:]!r}")
        print(f"{name}: {len(cases)} templates, {sum(counts.values())} renderings: {dict(counts)}")


main()
