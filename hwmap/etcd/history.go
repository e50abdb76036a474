package etcd

import (
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"ip6d/hwmap"
)

// history is what this Store has seen of the cluster: which one it is, and how far it had come. A linearizable answer to a
// request that was sent after that cannot be of another cluster, or older, unless etcd was restored or replaced. The zero
// value has seen nothing.
type history struct {
	mu     sync.Mutex // guards all below
	seen   point
	broken error // why nothing is believed until forget
}

// point is a place in the history of a cluster.
type point struct {
	cluster  uint64
	revision int64
}

// now returns what was seen until now, for note. Error: hwmap.ErrRestored.
func (h *history) now() (point, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.seen, h.broken
}

// note compares an answer with what was seen when its request was sent. Error: hwmap.ErrRestored, now and from now on.
func (h *history) note(sent point, answer *pb.ResponseHeader) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	got := point{answer.GetClusterId(), answer.GetRevision()}
	switch {
	case h.broken != nil:
	case h.seen.cluster != 0 && got.cluster != h.seen.cluster:
		h.broken = fmt.Errorf("%w: %w: the etcd cluster is %016x, was %016x", hwmap.ErrRestored, hwmap.ErrOtherStore, got.cluster, h.seen.cluster)
	case got.revision < sent.revision && sent.cluster == got.cluster:
		h.broken = fmt.Errorf("%w: etcd is at revision %d, was at %d", hwmap.ErrRestored, got.revision, sent.revision)
	default:
		h.seen.cluster, h.seen.revision = got.cluster, max(h.seen.revision, got.revision)
	}
	return h.broken
}

// forget makes what answers now what is believed.
func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen, h.broken = point{}, nil
}
