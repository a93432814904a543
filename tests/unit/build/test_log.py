"""objtool's and modpost's warnings, as several eras of kernels print them."""

from __future__ import annotations

import pytest

from harness.build.log import findings

LINES = [
    (
        "arch/x86/kernel/fork.o: warning: objtool: copy()+0x1c: stack state mismatch: "
        "cfa1=7+8 cfa2=7+16",
        ("objtool/stack-state-mismatch", "arch/x86/kernel/fork.o", "copy+0x1c"),
    ),
    (
        "vmlinux.o: warning: objtool: exc_page_fault+0x4a: call to memset() leaves "
        ".noinstr.text section",
        ("objtool/call-leaves-noinstr", "vmlinux.o", "exc_page_fault+0x4a"),
    ),
    (
        "vmlinux.o: warning: objtool: .text+0x1f: unreachable instruction",
        ("objtool/unreachable-instruction", "vmlinux.o", ".text+0x1f"),
    ),
    (
        "drivers/x.o: warning: objtool: foo() falls through to next function bar()",
        ("objtool/falls-through", "drivers/x.o", "foo"),
    ),
    (
        "vmlinux.o: warning: objtool: do_one_initcall+0x2a: relocation to !ENDBR: f+0x0",
        ("objtool/relocation-to-no-endbr", "vmlinux.o", "do_one_initcall+0x2a"),
    ),
    (
        "vmlinux.o: error: objtool: f+0x9: return with modified stack frame",
        ("objtool/return-with-modified-stack-frame", "vmlinux.o", "f+0x9"),
    ),
    (
        "vmlinux.o: warning: objtool: f+0x2: 'naked' return found in "
        "MITIGATION_RETHUNK build",
        ("objtool/naked-return", "vmlinux.o", "f+0x2"),
    ),
    (
        "lib/a.o: warning: objtool: missing symbol for section .text",
        ("objtool/missing-symbol-for-section", "lib/a.o", "(no symbol)"),
    ),
    (
        "kernel/b.o: warning: objtool: g.cold+0x3: stack layout conflict in "
        "alternatives: 0x12",
        ("objtool/alternative-conflict", "kernel/b.o", "g.cold+0x3"),
    ),
    (
        "WARNING: vmlinux.o(.text+0x1c2): Section mismatch in reference from the "
        "function start() to the function .init.text:setup()",
        ("modpost/section-mismatch", "vmlinux.o", "start"),
    ),
    (
        "WARNING: modpost: vmlinux: section mismatch in reference: start+0x12 "
        "(section: .text) -> setup (section: .init.text)",
        ("modpost/section-mismatch", "vmlinux", "start+0x12"),
    ),
    (
        "WARNING: modpost: missing MODULE_DESCRIPTION() in lib/test_min_heap.o",
        (
            "modpost/missing-module-description",
            "lib/test_min_heap.o",
            "(no symbol)",
        ),
    ),
]


@pytest.mark.parametrize(("line", "expected"), LINES)
def test_warning_becomes_a_finding(line, expected):
    """Rule, object and place are those of the line."""
    (finding,) = findings(f"  CC      lib/a.o\n{line}\n  LD      vmlinux.o\n")
    place = finding.location
    assert (finding.rule, place.object, str(place)) == expected


@pytest.mark.parametrize(
    "line",
    [
        "  OBJTOOL vmlinux.o",
        "kernel/fork.c:12:3: warning: unused variable 'x' [-Wunused-variable]",
        "vmlinux.o: warning: objtool:   f+0x10: (branch)",
        "WARNING: modules list is incomplete",
    ],
)
def test_other_lines_are_no_findings(line):
    """Steps, the compiler's warnings and objtool's back traces are left alone."""
    assert findings(line) == []


def test_equal_warnings_are_one_finding():
    """A line that make prints twice is one finding."""
    line = "a.o: warning: objtool: f+0x1: unreachable instruction"
    assert len(findings(f"{line}\n{line}\n")) == 1


def test_warnings_of_one_function_are_numbered():
    """Keys stay distinct although they hold no offset."""
    log = "".join(
        f"a.o: warning: objtool: f+{offset}: unreachable instruction\n"
        for offset in ("0x9", "0x1")
    )
    assert [(f.location.offset, f.ordinal) for f in findings(log)] == [(1, 0), (9, 1)]
