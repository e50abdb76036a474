package main

import "ip6d/addr"

// numbers is what an address says. What it does not say is absent; 0 is a number.
type numbers struct {
	Kind    string        `json:"kind,omitempty"`
	Network *addr.Network `json:"network,omitempty"`
	Cell    *addr.Cell    `json:"cell,omitempty"`
	Machine *addr.Machine `json:"machine,omitempty"`
	Block   *addr.Block   `json:"block,omitempty"`
	Host    *addr.Host    `json:"host,omitempty"`
	Stable  string        `json:"stable,omitempty"`
}

// decoded is the answer of `addr decode`.
type decoded struct {
	Address string `json:"address"`
	Form    string `json:"form"`
	numbers
	Error string `json:"error,omitempty"`
}

// encoded is the answer of `addr encode`.
type encoded struct {
	numbers
	Routing string `json:"routing,omitempty"`
}

func newDecoded(text string, d addr.Description) decoded {
	answer := decoded{Address: text, Form: d.Form.String()}
	if d.Err != nil {
		answer.Error = d.Err.Error()
		return answer
	}
	answer.numbers = newNumbers(d.Kind, d.Stable, d.Host)
	return answer
}

func newNumbers(kind addr.Kind, s addr.Stable, h addr.Host) numbers {
	n := numbers{Kind: kind.String()}
	if h != 0 {
		n.Host = &h
	}
	if !s.IsZero() {
		network, cell, machine := s.Network(), s.Cell(), s.Machine()
		block := machine.Block()
		n.Network, n.Cell, n.Machine, n.Block, n.Stable = &network, &cell, &machine, &block, s.String()
	}
	return n
}

// decodedRow has the columns of the table of `addr decode`.
func decodedRow(text string, d addr.Description) []any {
	row := []any{text, d.Form, "", "", "", "", "", "", ""}
	if d.Err != nil {
		return row
	}
	row[2] = d.Kind
	if s := d.Stable; !s.IsZero() {
		row[3], row[4], row[5], row[6], row[8] = s.Network(), s.Cell(), s.Machine(), s.Machine().Block(), s
	}
	if d.Host != 0 {
		row[7] = d.Host
	}
	return row
}

// printEncoded writes s and, where a host was given, its routing form r.
func (c *cli) printEncoded(s addr.Stable, h addr.Host, r addr.Routing) error {
	named := h
	if s.Kind() == addr.KindEndpoint {
		named = addr.Host(s.Machine())
	}
	answer := encoded{numbers: newNumbers(s.Kind(), s, named)}
	if h != 0 {
		answer.Routing = r.String()
	}
	return c.print(answer, func(t *table) {
		t.row("stable", s)
		if h != 0 {
			t.row("routing", r)
		}
	})
}
