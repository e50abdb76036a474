package hwmap

import (
	"context"

	"ip6d/addr"
)

// noticeHost takes in a host's record, for the history: nil, it has gone. The caller holds mu.
func (m *Map) noticeHost(id addr.Host, h *Host) {
	state := HostRemoved
	if h != nil {
		state = h.State
	}
	before, known := m.history.noticed[id]
	if state == before || h == nil && !known {
		return
	}
	if m.history.noticed[id] = state; h == nil {
		delete(m.history.noticed, id)
	}
	m.history.news = append(m.history.news, &Event{Time: m.Now().UTC(), Kind: EventHost, Host: id, HostState: state})
	wish(m.hostNews)
}

// tellHosts writes what happened to the fleet's hosts into the history, beside what it said of each last: so nothing is told
// twice, or left out, by a daemon that starts again.
func (m *Map) tellHosts(ctx context.Context) error {
	for {
		select {
		case <-m.hostNews:
		case <-ctx.Done():
			return ctx.Err()
		}
		m.mu.Lock()
		news := m.history.news
		news = news[:min(len(news), historyBatch)]
		m.mu.Unlock()
		if err := m.tellOf(ctx, news); err != nil {
			if ctx.Err() == nil {
				m.Logger.Warn("hosts' states not written into the history, trying again", "error", err)
			}
			if err := pause(ctx, retryPause); err != nil {
				return err
			}
		}
		m.mu.Lock()
		if len(m.history.news) > 0 {
			wish(m.hostNews)
		}
		m.mu.Unlock()
	}
}

func (m *Map) tellOf(ctx context.Context, news []*Event) error {
	last := make(map[addr.Host]*Event)
	for _, e := range news {
		last[e.Host] = e
	}
	var writes []Write
	for id, e := range last {
		w := Write{Key: notedKey(id)}
		if e.HostState != HostRemoved {
			w.Value = []byte(e.HostState)
		}
		writes = append(writes, w)
	}
	return m.writeTruth(ctx, writes, func() {
		m.history.news = m.history.news[len(news):]
		for id, e := range last {
			if m.history.hosts[id] = (told{e.HostState, e.Seq}); e.HostState == HostRemoved {
				delete(m.history.hosts, id)
			}
		}
	}, news...)
}
