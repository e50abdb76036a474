package nat

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"ip6d/addr"
	"ip6d/bpf"
)

// ReadEvents calls f with each event until ctx ends, and returns ctx's error. Events wait for it in the kernel, also while
// there is no daemon, as far as there is room. There may be one reader at a time.
func (d *Datapath) ReadEvents(ctx context.Context, f func(Event)) error {
	r, err := ringbuf.NewReader(d.objects.Events)
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { r.Close() }) // which ends the reading
	defer func() {
		if stop() {
			r.Close()
		}
	}()
	var record ringbuf.Record
	for {
		err := r.ReadInto(&record)
		if errors.Is(err, ringbuf.ErrClosed) {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if len(record.RawSample) < binary.Size(bpf.DatapathEvent{}) {
			// Of an older version's programs: what they sent waits here across an upgrade.
			continue
		}
		e, err := d.event(record.RawSample)
		if err != nil {
			return err
		}
		f(e)
	}
}

// event decodes what the programs sent.
func (d *Datapath) event(sample []byte) (Event, error) {
	var raw bpf.DatapathEvent
	if err := binary.Read(bytes.NewReader(sample), binary.NativeEndian, &raw); err != nil {
		return Event{}, fmt.Errorf("read event of %d bytes: %w", len(sample), err)
	}
	var now unix.Timespec // on the clock of raw.Time
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return Event{}, fmt.Errorf("read the clock of events: %w", err)
	}
	e := Event{
		Kind:       EventKind(raw.Kind),
		Time:       time.Now().Add(time.Duration(int64(raw.Time) - now.Nano())),
		Way:        nameOf(d.ways, int(raw.Way)),
		Ifindex:    int(raw.Ifindex),
		Length:     int(raw.Length),
		NextHeader: raw.NextHeader,
		Host:       addr.Host(raw.Host),
	}
	if e.Kind == EventDrop {
		e.Reason = nameOf(d.names, int(raw.Reason))
	}
	if raw.Source.High|raw.Source.Low|raw.Destination.High|raw.Destination.Low != 0 {
		e.Source = joined(raw.Source.High, raw.Source.Low)
		e.Destination = joined(raw.Destination.High, raw.Destination.Low)
	}
	if e.Way == fromMachine {
		p, ok, err := d.sender(raw.Ifindex)
		if err != nil {
			return e, fmt.Errorf("read port %d: %w", raw.Ifindex, err)
		}
		if ok {
			// Whatever wrote the entry had a valid address; an entry that is not is as good as none.
			e.Sender, _ = d.plan.StableFrom(joined(p.Stable.High, p.Stable.Low))
		}
	}
	return e, nil
}

// sender reads who may send on a device.
func (d *Datapath) sender(ifindex uint32) (bpf.DatapathPort, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.port(int(ifindex))
}

// nameOf is the name of a value of an enum. Programs of another version may know values that this one does not.
func nameOf(names []string, value int) string {
	if value < len(names) && names[value] != "" {
		return names[value]
	}
	return fmt.Sprintf("unknown_%d", value)
}

// EventsLost returns how many events nobody gets.
func (d *Datapath) EventsLost() (lost EventsLost, err error) {
	for cause, n := range map[bpf.DatapathEventsLostCause]*uint64{
		bpf.DatapathEventsLostCauseLOST_RING_FULL: &lost.RingFull,
		bpf.DatapathEventsLostCauseLOST_SAMPLED:   &lost.Sampled,
	} {
		if *n, err = sumCPUs(d.objects.EventsLost, uint32(cause)); err != nil {
			return lost, fmt.Errorf("read lost events: %w", err)
		}
	}
	return lost, nil
}

// sumCPUs reads a counter that each CPU has one of.
func sumCPUs(m *ebpf.Map, key uint32) (sum uint64, err error) {
	var perCPU []uint64
	if err := m.Lookup(key, &perCPU); err != nil {
		return 0, err
	}
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}

// joined is the way back from halves.
func joined(high, low uint64) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], high)
	binary.BigEndian.PutUint64(b[8:], low)
	return netip.AddrFrom16(b)
}
