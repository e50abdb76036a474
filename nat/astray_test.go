package nat

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"ip6d/addr"
	"ip6d/bpf"
)

// word is what the daemon is told of a packet, refused or not.
type word struct {
	kind        EventKind
	from        addr.Host  // EventAstray: which is to read again where the machine is; EventSent: this host
	destination netip.Addr // as it came
}

func (a word) String() string {
	if a.kind == EventSent {
		return fmt.Sprintf("a machine of host %d sends, to %s", a.from, a.destination)
	}
	return fmt.Sprintf("host %d sent to %s", a.from, a.destination)
}

// heard returns what was told since it was last asked, and has the programs tell it again at once.
func (b *bench) heard() (all []word, err error) {
	if b.events == nil {
		if b.events, err = ringbuf.NewReader(b.objects.Events); err != nil {
			return nil, err
		}
		b.events.SetDeadline(time.Unix(1, 0)) // what is there is there
		b.t.Cleanup(func() { b.events.Close() })
	}
	var r ringbuf.Record
	for b.events.AvailableBytes() > 0 { // which asks no kernel
		err := b.events.ReadInto(&r)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, err
		}
		e, err := b.event(r.RawSample)
		if err != nil {
			return nil, err
		}
		if e.Kind == EventAstray || e.Kind == EventSent {
			all = append(all, word{e.Kind, e.Host, e.Destination})
		}
	}
	for key := (bpf.DatapathTold{}); all != nil && b.objects.Told.NextKey(nil, &key) == nil; {
		if err := b.objects.Told.Delete(key); err != nil {
			return nil, err
		}
	}
	if all == nil {
		return nil, nil
	}
	const sampledAs = uint32(bpf.DatapathDropReasonDROP_NONE)
	return all, b.objects.Samples.Put(sampledAs, make([]bpf.DatapathSample, ebpf.MustPossibleCPU()))
}
