package audit

// Trace is what each layer believes of one machine, and the way of a packet to it.
type Trace struct {
	Layers []TracedLayer `json:"layers"`
	Hops   []string      `json:"hops"` // of a packet from this host, the first first
}

// TracedLayer is what one layer believes.
type TracedLayer struct {
	Layer     string `json:"layer"`
	Says      string `json:"says"`
	Disagrees bool   `json:"disagrees"` // with the layer that it follows
}

// Mark marks the layers that do not agree: of each difference, those after the first, which the others follow.
func (t *Trace) Mark(all []Difference) {
	wrong := make(map[string]bool)
	for _, d := range all {
		if d.Severity == Info {
			continue
		}
		for i, s := range d.Said {
			if i > 0 || len(d.Said) == 1 {
				wrong[s.Layer] = true
			}
		}
	}
	for i := range t.Layers {
		t.Layers[i].Disagrees = wrong[t.Layers[i].Layer]
	}
}
