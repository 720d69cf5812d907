"""What README.md says is so: its commands, their output, its options, its links."""

import doctest
import re
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest
from helpers.scripts import TOP, run

README = (TOP / "README.md").read_text(encoding="utf-8")
SCRIPTS = ["build-lookup-table.py", "query-lookup-table.py", "gui-lookup-table.py"]


def code_blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def script_commands(text):
    """The commands in text that run a script, each as a list of arguments."""
    commands = re.findall(r"python ([a-z]+-lookup-table\.py)([^`\n]*)", text)
    return [[sys.executable, script, *arguments.split()] for script, arguments in commands]


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
    shown = [
        (above, text) for (_, above), (language, text) in pairwise(blocks) if language == "text"
    ]
    assert len(shown) == 2
    for commands, output in shown:
        query = script_commands(commands)[-1]
        printed = subprocess.run(query, cwd=clone, stdout=subprocess.PIPE, check=True).stdout
        assert printed.decode() == output


def test_every_query_about_what_an_anomaly_means_ends_well(clone):
    queries = script_commands(README.split("\n## What an anomaly means\n")[1].split("\n## ")[0])
    assert len(queries) == 3
    for query in queries:
        assert subprocess.run(query, cwd=clone, stdout=subprocess.DEVNULL).returncode == 0


def test_the_table_is_as_in_the_readmes_example(clone, monkeypatch):
    monkeypatch.chdir(clone)
    example = doctest.DocTestParser().get_doctest("\n".join(code_blocks("python")), {}, "", None, 0)
    assert len(example.examples) == 4
    assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


def test_every_option_in_the_readme_is_one_of_a_script():
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    words = re.findall(r"`([^`]+)`", prose)
    words += [word for command in script_commands(README) for word in command]
    named = set(re.findall(r"--[a-z][a-z-]+", " ".join(words)))
    help_texts = [run(script, "--help").stdout for script in SCRIPTS]
    assert named > {"--download", "--aftermath", "--host"}
    assert named - set(re.findall(r"--[a-z][a-z-]+", " ".join(help_texts))) == set()


@pytest.mark.parametrize("page", ["README.md", "aggregates_day/README.md"])
def test_every_link_to_a_file_or_heading_leads_to_one(page):
    headings = re.findall(r"^#+ (.*)", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-")) for heading in headings}
    text = (TOP / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        assert not path or ((TOP / page).parent / path).is_file(), link
        assert not anchor or anchor in anchors, link
