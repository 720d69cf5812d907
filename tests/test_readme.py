"""What README.md says is so: its commands, their output, its options, its links."""

import doctest
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
README = (TOP / "README.md").read_text()
SCRIPTS = ["build-lookup-table.py", "query-lookup-table.py", "gui-lookup-table.py"]


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def script_commands(block):
    """The commands of a code block that run a script, each as a list of arguments."""
    commands = (line.split() for line in block.splitlines())
    return [[sys.executable, *words[1:]] for words in commands if words[0] == "python"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The builder, the querier and the sample market, and nothing else; its table is built."""
    clone = tmp_path_factory.mktemp("clone")
    for script in SCRIPTS[:2]:
        shutil.copy(TOP / script, clone)
    shutil.copytree(TOP / "tests" / "sample_market", clone / "tests" / "sample_market")
    build, _ = script_commands(code_blocks("sh")[0])
    subprocess.run(build, cwd=clone, check=True)
    return clone


def test_each_text_in_the_readme_is_what_the_command_above_it_prints(clone):
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    pairs = zip(blocks, blocks[1:])
    shown = [(before, text) for (_, before), (language, text) in pairs if language == "text"]
    assert len(shown) == 2
    for command_line, output in shown:
        query = script_commands(command_line)[-1]
        found = subprocess.run(query, cwd=clone, stdout=subprocess.PIPE, check=True)
        assert found.stdout.decode() == output


def test_every_query_about_what_an_anomaly_means_ends_well(clone):
    section = README.split("\n## What an anomaly means\n")[1].split("\n## ")[0]
    lines = re.findall(r"^python query-lookup-table.py .*", section, re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        (query,) = script_commands(line)
        assert subprocess.run(query, cwd=clone, stdout=subprocess.DEVNULL).returncode == 0


def test_the_table_is_as_in_the_readmes_example(clone, monkeypatch):
    monkeypatch.chdir(clone)
    code = "\n".join(code_blocks("python"))
    example = doctest.DocTestParser().get_doctest(code, {}, "README", None, 0)
    assert len(example.examples) == 7
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_readme_lists_the_options_that_a_script_has(script):
    help_text = subprocess.run(
        [sys.executable, script, "--help"], cwd=TOP, stdout=subprocess.PIPE, check=True
    ).stdout.decode()
    section = README.split(f"**{script}")[1].split("**")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(--[a-z-]+)", section))
    assert documented | {"--help"} == set(re.findall(r"--[a-z][a-z-]+", help_text))


def test_every_link_to_a_file_leads_to_one():
    targets = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert targets
    assert [target for target in targets if not (TOP / target).is_file()] == []
