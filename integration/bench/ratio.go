package main

// ratio is a number that the datapath is held to, known to its readers by its key.
type ratio struct {
	key   string
	bar   float64
	below bool // the bar is the most that is good, not the least
	ways  []string
	of    func(r *results, round int) float64
}

// ratios are all of them, in the order in which they are printed.
func ratios() []ratio {
	// of one number of a sample, a's to b's
	quotient := func(key string, bar float64, a, b string, number func(sample) float64) ratio {
		return ratio{key: key, bar: bar, ways: []string{a, b}, of: func(r *results, i int) float64 {
			return number(r.samples[a][i]) / number(r.samples[b][i])
		}}
	}
	pps := func(key string, bar float64, a, b string) ratio {
		return quotient(key, bar, a, b, func(s sample) float64 { return s.PacketsPerSecond })
	}
	latency := quotient("rr_p50_vs_plain", 0.97, wayIP6D, wayPlain, func(s sample) float64 { return s.RequestP50 })
	latency.below = true
	return []ratio{
		pps("pps_vs_plain", 1.2, wayIP6D, wayPlain),
		{key: "added_cost_vs_plain", bar: 0.5, below: true, ways: []string{wayStraight, wayPlain, wayIP6D}, of: addedCost},
		pps("pps_vs_nft_stateless", 1.25, wayIP6D, wayNftStateless),
		pps("pps_vs_nft_nat", 1.8, wayIP6D, wayNftNAT),
		pps("pps_vs_npt", 1.4, wayIP6D, wayNPT),
		pps("pps_vs_vxlan", 1.9, wayIP6D, wayVXLAN),
		pps("pps_vs_srv6", 1.4, wayIP6D, waySRv6),
		latency,
		quotient("tcp_vs_plain", 1, wayIP6D, wayPlain, func(s sample) float64 { return s.TCPBitsPerSecond }),
		pps("pps_1m_moved_vs_empty", 0.95, wayMoved, wayEmpty),
		pps("same_host_pps_vs_plain", 1.2, waySharedIP6D, waySharedPlain),
		{key: "ns_from_machine", bar: 60, below: true, of: func(r *results, i int) float64 { return r.programs[i].FromMachine }},
		{key: "ns_from_underlay", bar: 60, below: true, of: func(r *results, i int) float64 { return r.programs[i].FromUnderlay }},
	}
}

// measured reports whether all ways that a ratio needs were measured.
func (x ratio) measured(r *results) bool {
	for _, name := range x.ways {
		if r.samples[name] == nil {
			return false
		}
	}
	return true
}

// addedCost is what ip6d adds to a straight veth, per packet, in parts of what plain forwarding adds.
func addedCost(r *results, i int) float64 {
	cost := func(name string) float64 { return r.samples[name][i].NsPerPacket }
	return (cost(wayIP6D) - cost(wayStraight)) / (cost(wayPlain) - cost(wayStraight))
}
