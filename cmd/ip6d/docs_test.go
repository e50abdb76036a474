package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var inlineCommand = regexp.MustCompile("`(ip6d [a-z][^`]*)`")

// documented returns the command lines of ip6d in a page: those in code, which a line begins with, and those in the text.
func documented(page string) []string {
	var lines []string
	fenced := false
	for line := range strings.Lines(page) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			for _, m := range inlineCommand.FindAllStringSubmatch(line, -1) {
				lines = append(lines, m[1])
			}
			continue
		}
		text = strings.TrimPrefix(strings.TrimPrefix(text, "$ "), "sudo ")
		text, _, _ = strings.Cut(text, " #")
		text, _, _ = strings.Cut(text, " | ")
		text = strings.TrimPrefix(strings.TrimSpace(text), "bin/")
		if strings.HasPrefix(text, "ip6d ") {
			lines = append(lines, text)
		}
	}
	return lines
}

func TestEveryCommandInTheDocsExistsWithItsFlags(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range append(pages, "../../README.md") {
		page, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range documented(string(page)) {
			found++
			root := newRootCommand(&cli{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
			command, rest, err := root.Find(strings.Fields(line)[1:])
			if err == nil && command == root {
				err = usagef("unknown command")
			}
			if err == nil {
				err = command.ParseFlags(rest)
			}
			// A group is a heading, as in `ip6d db`; a command of one that is there is not.
			if err == nil && command.HasSubCommands() && command.Flags().NArg() > 0 {
				err = usagef("%s has no command %q", command.CommandPath(), command.Flags().Arg(0))
			}
			if err != nil {
				t.Errorf("%s: `%s`: %v", path, line, err)
			}
		}
	}
	if found < 30 {
		t.Errorf("%d commands were found: the test does not test", found)
	}
}

func TestACommandThatTheDocsInventIsNoticed(t *testing.T) {
	got := documented("`ip6d db stats`, and\n\n```sh\nsudo ip6d db  check --file x | less\nls\n```\n    bin/ip6d status   # now\n")
	if strings.Join(got, ";") != "ip6d db stats;ip6d db  check --file x;ip6d status" {
		t.Errorf("found %q", got)
	}
}
