package nat

import (
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
)

// The one that is attached later would be the first to see the packets, and its maps are not the ones that are kept.
func TestTwoDatapathsAreNotAttachedToOneDevice(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		n := newNamespace(t)
		port, _ := vethPair(n, n, "port", "guest", 1500)
		underlay, _ := vethPair(n, n, "underlay", "far", 1500)
		o := options(pinDir(t))
		o.hooks = by
		first := n.open(o)
		n.do(func() error {
			return errors.Join(first.AttachPort(port.index, alice), first.AttachUnderlay(underlay.index))
		})
		before := attached(t, port)

		o.PinDir = pinDir(t)
		other := n.open(o)
		n.do(func() error {
			refused(t, "port", other.AttachPort(port.index, bob))
			refused(t, "underlay", other.AttachUnderlay(underlay.index))
			return nil
		})
		if got := must(other.Attachments()); len(got) != 0 {
			t.Errorf("the other one is attached: %v", got)
		}
		if hasIdentity(t, other, port.index) {
			t.Error("the other one has an identity for the port")
		}
		if got := attached(t, port); !reflect.DeepEqual(got, before) {
			t.Errorf("attached are %v, want %v as before", got, before)
		}

		n.do(func() error {
			return errors.Join(first.AttachPort(port.index, alice), first.Remove(), other.AttachPort(port.index, bob))
		})
		if got := attached(t, port); len(got) != 1 {
			t.Errorf("after the first one's removal attached are %v, want one program", got)
		}
	})
}

func TestADatapathIsNotOpenedBesideAnother(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		n := newNamespace(t)
		stack, peer := vethPair(n, n, "ip6d0", "ip6d0p", 1500)
		o := options(pinDir(t))
		o.hooks, o.Stack = by, stack.index
		first := n.open(o)
		n.do(func() error { return first.AttachStack(peer.index) })
		ok(t, first.Close())

		beside := o
		beside.PinDir = pinDir(t)
		n.do(func() error {
			_, err := Open(beside)
			refused(t, "ip6d0", err)
			return nil
		})
		if _, err := os.Stat(beside.PinDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it left its pin directory (%v)", err)
		}
		first = n.open(o) // as ever
		want := []Attachment{{fromElsewhere, stack.index}, {fromStack, peer.index}}
		if got := must(first.Attachments()); !reflect.DeepEqual(got, want) {
			t.Errorf("attached are %v, want %v", got, want)
		}
		n.do(first.Remove)
	})
}

// As versions that did not refuse it may have left behind.
func TestADatapathThatAnotherIsAttachedBesideIsNotOpened(t *testing.T) {
	eachWay(t, func(t *testing.T, by way) {
		n := newNamespace(t)
		stack, peer := vethPair(n, n, "ip6d0", "ip6d0p", 1500)
		o := options(pinDir(t))
		o.hooks, o.Stack = by, stack.index
		first := n.open(o)
		n.do(func() error { return first.AttachStack(peer.index) })
		beside := o
		beside.PinDir, beside.Stack = pinDir(t), 0
		other := n.open(beside)
		n.do(func() error {
			return other.hooks.attach(Attachment{fromElsewhere, stack.index}, other.programs()[fromElsewhere])
		})
		ok(t, first.Close())
		n.do(func() error {
			_, err := Open(o)
			refused(t, "ip6d0", err)
			return nil
		})
		n.do(other.Remove)
		n.do(n.open(o).Remove)
	})
}

// refused wants ErrTaken, which names a device and the way out.
func refused(t *testing.T, device string, err error) {
	t.Helper()
	if !errors.Is(err, ErrTaken) {
		t.Errorf("%s: error %v, want %v", device, err, ErrTaken)
		return
	}
	for _, want := range []string{"device " + device + " has", "set bpf_dir back"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it says %q, without %q", err, want)
		}
	}
}
