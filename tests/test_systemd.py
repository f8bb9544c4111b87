"""Words that go into a unit come out of systemd as they were."""

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roles.common.systemd import environment_word, exec_line

WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n"), min_size=1, max_size=20)


def systemd_words(line: str) -> list[str]:
    """Split a line as systemd.syntax(7) says: quotes, backslash escapes, %% and $$."""
    words: list[str] = []
    word, quoted, inside, position = "", False, False, 0
    while position < len(line):
        character = line[position]
        if character == "\\":
            position += 1
            word += {"n": "\n", "t": "\t", "r": "\r"}.get(line[position], line[position])
        elif character == '"':
            inside, quoted = not inside, True
        elif character == " " and not inside:
            words, word, quoted = [*words, word] if word or quoted else words, "", False
        elif line[position : position + 2] in ("%%", "$$"):
            word, position = word + character, position + 1
        else:
            assert character not in "%$", f"systemd would expand {line!r}"
            word += character
        position += 1
    return [*words, word] if word or quoted else words


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_every_word_reaches_the_program_as_it_was(words: list[str]) -> None:
    assert systemd_words(exec_line(words)) == words


def test_plain_words_stay_readable() -> None:
    assert exec_line(["/opt/x/llama-server", "--port", "8000", "--cors-origins", "http://127.0.0.1:8000"]) == (
        "/opt/x/llama-server --port 8000 --cors-origins http://127.0.0.1:8000"
    )


def test_a_percent_sign_and_a_dollar_are_not_expanded() -> None:
    assert exec_line(["50%", "$HOME"]) == "50%% $$HOME"
    assert environment_word("A", "$x y") == '"A=$x y"'


@settings(max_examples=15, deadline=None)
@given(WORDS)
def test_systemd_itself_accepts_any_word(tmp_path_factory: pytest.TempPathFactory, word: str) -> None:
    unit = tmp_path_factory.mktemp("unit") / "word.service"
    unit.write_text(f"[Service]\nExecStart=/bin/true {exec_line([word])}\nEnvironment={environment_word('A', word)}\n")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "word.service:" in line]
    assert not complaints, complaints
