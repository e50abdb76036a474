package nat

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"ip6d/bpf"
)

func TestEveryDropReasonIsExplainedAndNoOther(t *testing.T) {
	spec, err := bpf.LoadDatapath()
	ok(t, err)
	reasons, err := dropNames(spec.Types)
	ok(t, err)
	reasons = slices.Delete(reasons, int(bpf.DatapathDropReasonDROP_NONE), int(bpf.DatapathDropReasonDROP_NONE)+1)

	var named []string
	for _, r := range reasons {
		if dropMeanings[r] == "" {
			t.Errorf("dropMeanings does not say what %s means", r)
		}
		named = append(named, "| "+r+" | "+dropMeanings[r]+" |")
	}
	if len(dropMeanings) > len(reasons) {
		t.Errorf("dropMeanings has %d reasons, of which there are %d", len(dropMeanings), len(reasons))
	}
	if explained := explainedDrops(t); !slices.Equal(explained, named) {
		t.Errorf("docs/ explains\n%s\nwant, in the order of bpf/ip6d.h,\n%s", strings.Join(explained, "\n"), strings.Join(named, "\n"))
	}
}

// explainedDrops returns the rows of the table about drops, in whichever of the docs it is, as they are without backticks.
func explainedDrops(t *testing.T) []string {
	t.Helper()
	for _, path := range must(filepath.Glob("../docs/*.md")) {
		_, section, found := strings.Cut(string(must(os.ReadFile(path))), "\n## Why packets are dropped\n")
		if !found {
			continue
		}
		section, _, _ = strings.Cut(strings.ReplaceAll(section, "`", ""), "\n## ")
		return regexp.MustCompile(`(?m)^\| \w+ \| .+ \|$`).FindAllString(section, -1)[1:] // without the heading
	}
	t.Fatal("none of docs/*.md has a section about why packets are dropped")
	return nil
}
