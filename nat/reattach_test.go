package nat

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cilium/ebpf/link"
)

// The daemon attaches again now and then what should be attached.
func TestWhatWasDetachedByHandIsAttachedAgain(t *testing.T) {
	o := options(pinDir(t))
	n := newNamespace(t)
	port, _ := vethPair(n, n, "port", "guest", 1500)
	d := n.open(o)
	pin := filepath.Join(o.PinDir, linksDir, fmt.Sprintf("%s-%d", fromMachine, port.index))
	for _, c := range []struct {
		name string
		do   func() error
	}{
		{"bpftool link detach", func() error {
			l, err := link.LoadPinnedLink(pin, nil)
			if err != nil {
				return err
			}
			return errors.Join(l.Detach(), l.Close())
		}},
		{"rm", func() error { return os.Remove(pin) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.do(func() error { return d.AttachPort(port.index, alice) })
			ok(t, c.do())
			eventually(t, "the program is gone", func() error { // some time after a pin is
				if ids := attached(t, port); len(ids) != 0 {
					return fmt.Errorf("%v are attached", ids)
				}
				return nil
			})
			n.do(func() error { return d.AttachPort(port.index, alice) })
			if ids := attached(t, port); len(ids) != 1 {
				t.Errorf("attached are %v, want one program", ids)
			}
		})
	}
}

func TestAPeerOfTheStackThatWasMadeAnewTakesThePlaceOfTheOther(t *testing.T) {
	n := newNamespace(t)
	o := options(pinDir(t))
	const stack = 77
	add := func() device {
		n.do(func() error { return addVeth("ip6d0", "ip6d0p", stack) })
		n.up("ip6d0", 1500)
		return n.up("ip6d0p", 1500)
	}
	first := add()
	o.Stack = stack
	d := n.open(o)
	n.do(func() error { return d.AttachStack(first.index) })
	n.do(func() error { return deleteLink("ip6d0") })
	second := add()
	if first.index == second.index {
		t.Fatalf("both peers have number %d", first.index)
	}
	n.do(func() error { return d.AttachStack(second.index) })
	want := []Attachment{{fromElsewhere, stack}, {fromStack, second.index}}
	if got := must(d.Attachments()); !slices.Equal(got, want) {
		t.Errorf("attached are %v, want %v", got, want)
	}
}
