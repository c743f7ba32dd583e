"""Go's templates: what is expected here was made by Go 1.19 itself."""

import pytest

from lorad.versions import go_template
from lorad.versions.go_template import GoError

SAID = {"Messages": [{"Role": "user", "Content": " a "}, {"Role": "system", "Content": "b"}], "None": []}


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("plain } text", "plain } text"),
        ('a \n{{- "x" -}}\t b {{ "y" }} c', "axb y c"),
        ('{{ "}} \\" \\\\ \\n\\t\\u00e9\\U0001f642" }}', '}} " \\ \n\té🙂'),
        ("{{ range .Messages }}[{{ .Role }}:{{ .Content }}]{{ end }}", "[user: a ][system:b]"),
        ("{{ range .None }}x{{ else }}nobody{{ end }}", "nobody"),
        ('{{ range .Messages }}{{ if eq .Role "x" "system" }}S{{ else if eq .Role "user" }}U{{ end }}{{ end }}', "US"),
        ('{{ $l := "-" }}{{ range .Messages }}{{ $l }}{{ $l = .Role }}{{ end }}{{ $l }}', "-usersystem"),
        ("{{ if .None }}a{{ else }}{{ if .Messages }}b{{ end }}{{ end }}", "b"),
        ('{{ $x := "out" }}{{ if .Messages }}{{ $x := "in" }}{{ $x }}{{ end }}{{ $x }}', "inout"),
        ('{{ slice "abc" 1 }}', "bc"),
    ],
)  # fmt: skip
def test_a_template_is_run_as_go_does(template, made):
    assert go_template.render(template, SAID) == made


@pytest.mark.parametrize(
    "template",
    [
        "{{ .Nobody }}",
        "{{ $x }}",
        "{{ $x = .None }}",
        "{{ if .None }}",
        "{{ end }}",
        "{{ if .None }}{{ else }}{{ else }}{{ end }}",
        "{{ .Messages",
        '{{ "open }}',
        '{{ "\\q" }}',
        '{{ eq "1" 1 }}',
        '{{ eq "1" }}',
        '{{ slice "abc" 4 }}',
        '{{ printf "%s" .None }}',
        "{{ .Messages | len }}",
        "{{ range .Messages }}{{ .System }}{{ end }}",
        "{{/* no comments */}}",
    ],
)
def test_what_go_stops_at_or_is_not_known_here_is_refused(template):
    with pytest.raises(GoError):
        go_template.render(template, SAID)


@pytest.mark.parametrize(
    "text", ["", '"""', "{{ .X }}", "{{-", "\\n", "\r\n\t\0", "\u00a0\u2028\ufeff", "é🙂<|im_end|>\n"]
)
def test_quoted_text_is_that_text_and_any_program_can_carry_it(text):
    quoted = go_template.quote(text)

    assert go_template.render(f"{{{{- {quoted} -}}}}", {}) == text
    assert quoted.isprintable()
    assert '"""' not in quoted
    assert "{{" not in quoted
