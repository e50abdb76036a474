package nat

import (
	"os"
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

	text, err := os.ReadFile("../docs/ARCHITECTURE.md")
	ok(t, err)
	_, section, found := strings.Cut(string(text), "\n## Why packets are dropped\n")
	if !found {
		t.Fatal("docs/ARCHITECTURE.md has no section about why packets are dropped")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var explained []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(.+?)` \\| .").FindAllStringSubmatch(section, -1) {
		explained = append(explained, row[1])
	}
	if !slices.Equal(explained, reasons) {
		t.Errorf("docs/ARCHITECTURE.md explains\n%q, want, in the order of bpf/ip6d.h,\n%q", explained, reasons)
	}
}
