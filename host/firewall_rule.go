package host

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// passage is a kind of packet that comes in by ip6d0 and that no firewall has reason to stop, as far as it is known
// beforehand.
type passage struct {
	what    string       // as a Finding says it
	source  netip.Prefix // zero: any
	reverse bool         // the route to the source is by ip6d0
	local   bool         // it is for this host
}

// passages are those of this host. Errors of routers come in by ip6d0 too, where a reverse path filter does not expect
// them.
func (a *Agent) passages() []passage {
	return []passage{
		{what: "Packet Too Big and Time Exceeded to machines", source: a.Plan.HostPrefix(a.Host), reverse: true},
		{what: "errors of the underlay's routers to services of this host", local: true},
	}
}

// truth is whether a packet matches: the rules are walked without one, so often that cannot be known.
type truth int

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

// value is what a register holds.
type value struct {
	bytes []byte // nil: unknown
	fib   bool   // it depends on the routes
	words string
}

// walker follows a packet of the passage through the rules.
type walker struct {
	conn     *nftables.Conn
	chains   []*nftables.Chain
	passage  passage
	ifindex  int  // of ip6d0
	marks    bool // there are routing rules for marked packets, so marks have a say
	findings []Finding
}

// walk follows the packet through a chain, which it comes to for sure or maybe. cause is the rule that sent it here
// because of the routes, if one did. It reports whether the packet leaves the base chain here for sure.
func (w *walker) walk(c *nftables.Chain, comes truth, cause *match) (ended bool, err error) {
	rules, err := w.conn.GetRules(c.Table, c)
	if err != nil {
		return false, fmt.Errorf("list rules of chain %s: %w", c.Name, err)
	}
	for _, r := range rules {
		r.Chain = c
		m, err := w.match(r)
		if err != nil {
			return false, err
		}
		if m.is == no || m.verdict == nil {
			continue
		}
		because, sure := cause, min(m.is, comes)
		if m.fib {
			because = m
		}
		switch m.verdict.Kind {
		case expr.VerdictAccept:
			if sure == yes {
				return true, nil
			}
		case expr.VerdictReturn:
			if m.is == yes {
				return false, nil
			}
		case expr.VerdictDrop:
			if because == nil && sure == yes {
				because = m
			}
			if because != nil {
				w.findings = append(w.findings, w.finding(because, sure))
			}
			if sure == yes {
				return true, nil
			}
		case expr.VerdictJump, expr.VerdictGoto:
			for _, next := range w.chains {
				if next.Name != m.verdict.Chain || next.Table.Name != c.Table.Name || next.Table.Family != c.Table.Family {
					continue
				}
				if ended, err := w.walk(next, sure, because); ended || err != nil {
					return ended, err
				}
			}
			if m.verdict.Kind == expr.VerdictGoto && m.is == yes {
				return false, nil
			}
		}
	}
	return false, nil
}

func (w *walker) finding(m *match, certain truth) Finding {
	t, c := m.rule.Table, m.rule.Chain
	f := Finding{
		Family: familyName(t.Family), Table: t.Name, Chain: c.Name, Handle: m.rule.Handle,
		Rule: m.words, Stops: w.passage.what, Certain: certain == yes,
		Remedy: fmt.Sprintf("nft insert rule %s %s %s position %d iifname %s accept", familyName(t.Family), t.Name, c.Name, m.rule.Handle, StackDevice),
	}
	if m.xtables { // which cannot read what nft puts among its rules
		f.Remedy = fmt.Sprintf("ip6tables -t %s -I %s -i %s -j ACCEPT", t.Name, c.Name, StackDevice)
	}
	return f
}

// match is what is known of a rule and the packet.
type match struct {
	rule    *nftables.Rule
	is      truth
	fib     bool // it depends on the routes
	xtables bool // it is ip6tables'
	verdict *expr.Verdict
	words   string
}

// match evaluates a rule's expressions. What it does not understand may be so or not.
func (w *walker) match(r *nftables.Rule) (*match, error) {
	m := &match{rule: r, is: yes}
	registers := make(map[uint32]value)
	var words []string
	condition := func(t truth, v value, what string) {
		m.is = min(m.is, t)
		m.fib = m.fib || v.fib
		words = append(words, what)
	}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if !e.SourceRegister {
				registers[e.Register] = w.meta(e)
			}
		case *expr.Fib:
			registers[e.Register] = w.fib(e)
		case *expr.Payload:
			if e.OperationType == expr.PayloadLoad {
				registers[e.DestRegister] = w.payload(e)
			}
		case *expr.Bitwise:
			registers[e.DestRegister] = value{fib: registers[e.SourceRegister].fib}
		case *expr.Byteorder:
			registers[e.DestRegister] = value{fib: registers[e.SourceRegister].fib}
		case *expr.Cmp:
			v := registers[e.Register]
			condition(compare(v, e), v, v.words+operator(v, e))
		case *expr.Lookup:
			v := registers[e.SourceRegister]
			if e.IsDestRegSet { // a map: of verdicts, or of values
				condition(maybe, v, "…")
				continue
			}
			t, err := w.lookup(r.Table, v, e)
			if err != nil {
				return nil, err
			}
			condition(t, v, v.words+setWords(e))
		case *expr.Match:
			m.xtables = true
			if e.Name != "rpfilter" {
				condition(maybe, value{}, "…")
				continue
			}
			t, what := w.rpfilter(e)
			condition(t, value{fib: true}, what)
		case *expr.Verdict:
			m.verdict = e
		case *expr.Reject:
			m.verdict = &expr.Verdict{Kind: expr.VerdictDrop}
		case *expr.Counter, *expr.Log, *expr.Objref, *expr.Notrack: // matches everything
		default:
			condition(maybe, value{}, "…")
		}
	}
	if m.verdict != nil {
		words = append(words, verdictWords(m.verdict))
	}
	m.words = strings.Join(words, " ")
	return m, nil
}

func (w *walker) meta(e *expr.Meta) value {
	native := func(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	switch e.Key {
	case expr.MetaKeyIIFNAME:
		return value{bytes: deviceName(StackDevice), words: "iifname"}
	case expr.MetaKeyIIF:
		return value{bytes: native(w.ifindex), words: "iif"}
	case expr.MetaKeyNFPROTO:
		return value{bytes: []byte{unix.NFPROTO_IPV6}, words: "meta nfproto"}
	case expr.MetaKeyPROTOCOL:
		return value{bytes: binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6), words: "meta protocol"}
	}
	return value{words: "…"}
}

// deviceName is a name as rules hold it.
func deviceName(name string) []byte {
	return append([]byte(name), make([]byte, unix.IFNAMSIZ-len(name))...)
}

// fib is what the kernel's fib expression finds for the packet.
func (w *walker) fib(e *expr.Fib) value {
	v := value{fib: true}
	var tuple []string
	for _, f := range []struct {
		is   bool
		name string
	}{{e.FlagSADDR, "saddr"}, {e.FlagDADDR, "daddr"}, {e.FlagMARK, "mark"}, {e.FlagIIF, "iif"}, {e.FlagOIF, "oif"}} {
		if f.is {
			tuple = append(tuple, f.name)
		}
	}
	result := "oif"
	switch {
	case e.ResultADDRTYPE:
		result = "type"
	case e.ResultOIFNAME:
		result = "oifname"
	}
	v.words = "fib " + strings.Join(tuple, " . ") + " " + result

	behind := e.FlagSADDR && w.passage.reverse
	switch {
	case e.FlagMARK && w.marks, e.FlagOIF:
		return v
	case e.ResultADDRTYPE && e.FlagDADDR && w.passage.local:
		v.bytes = binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)
	case e.ResultADDRTYPE:
		v.bytes = binary.NativeEndian.AppendUint32(nil, unix.RTN_UNICAST)
	case e.FlagDADDR || !behind && !e.FlagIIF: // by some device
		return v
	case e.FlagPRESENT:
		v.bytes = make([]byte, 4)
		if behind {
			v.bytes[0] = 1
		}
	case e.ResultOIFNAME:
		v.bytes = make([]byte, unix.IFNAMSIZ)
		if behind {
			v.bytes = deviceName(StackDevice)
		}
	default:
		v.bytes = make([]byte, 4)
		if behind {
			binary.NativeEndian.PutUint32(v.bytes, uint32(w.ifindex))
		}
	}
	return v
}

// payload is what the packet has at some place of its header: as much of it as is known.
func (w *walker) payload(e *expr.Payload) value {
	const sourceAt = 8
	if e.Base != expr.PayloadBaseNetworkHeader || e.Offset != sourceAt || !w.passage.source.IsValid() || int(e.Len) > w.passage.source.Bits()/8 {
		return value{words: "…"}
	}
	return value{bytes: w.passage.source.Addr().AsSlice()[:e.Len], words: "ip6 saddr"}
}

func compare(v value, e *expr.Cmp) truth {
	if v.bytes == nil || len(v.bytes) < len(e.Data) {
		return maybe
	}
	equal := truthOf(bytes.Equal(v.bytes[:len(e.Data)], e.Data)) // shorter is a name with a wildcard
	switch e.Op {
	case expr.CmpOpEq:
		return equal
	case expr.CmpOpNeq:
		return equal.not()
	}
	return maybe
}

// operator says what a register is compared with.
func operator(v value, e *expr.Cmp) string {
	sign := " "
	switch e.Op {
	case expr.CmpOpEq:
	case expr.CmpOpNeq:
		sign = " != "
	default:
		return " …"
	}
	zero := len(bytes.Trim(e.Data, "\x00")) == 0
	switch {
	case strings.HasSuffix(v.words, "oif") && zero && e.Op == expr.CmpOpEq, strings.HasSuffix(v.words, "oif") && len(e.Data) == 1 && zero:
		return " missing"
	case strings.HasSuffix(v.words, "oif") && len(e.Data) == 1:
		return " exists"
	case strings.HasSuffix(v.words, "name"):
		name := string(bytes.TrimRight(e.Data, "\x00"))
		if len(e.Data) < unix.IFNAMSIZ {
			name += "*"
		}
		return fmt.Sprintf("%s%q", sign, name)
	case strings.HasSuffix(v.words, "type") && len(e.Data) == 4:
		return sign + routeType(binary.NativeEndian.Uint32(e.Data))
	case v.words == "meta nfproto" && bytes.Equal(e.Data, []byte{unix.NFPROTO_IPV6}):
		return sign + "ipv6"
	}
	return sign + "…"
}

// routeType is a kind of address that nft has a name for.
func routeType(n uint32) string {
	switch n {
	case unix.RTN_UNICAST:
		return "unicast"
	case unix.RTN_LOCAL:
		return "local"
	case unix.RTN_ANYCAST:
		return "anycast"
	case unix.RTN_MULTICAST:
		return "multicast"
	}
	return "…"
}

// lookup tells whether a set has the value.
func (w *walker) lookup(t *nftables.Table, v value, e *expr.Lookup) (truth, error) {
	if v.bytes == nil {
		return maybe, nil
	}
	elements, err := w.conn.GetSetElements(&nftables.Set{Table: t, Name: e.SetName})
	if err != nil {
		return no, fmt.Errorf("list set %s: %w", e.SetName, err)
	}
	has := no
	for _, element := range elements {
		if element.IntervalEnd || element.KeyEnd != nil || len(element.Key) != len(v.bytes) {
			return maybe, nil
		}
		if bytes.Equal(element.Key, v.bytes) {
			has = yes
		}
	}
	if e.Invert {
		has = has.not()
	}
	return has, nil
}

func setWords(e *expr.Lookup) string {
	words := " "
	if e.Invert {
		words = " != "
	}
	if strings.HasPrefix(e.SetName, "__") { // as nft calls one without a name
		return words + "{ … }"
	}
	return words + "@" + e.SetName
}

// The flags of linux/netfilter/xt_rpfilter.h.
const (
	rpfilterLoose     = 1 << 0
	rpfilterValidMark = 1 << 1
	rpfilterInvert    = 1 << 3
)

// rpfilter evaluates ip6tables' reverse path filter.
func (w *walker) rpfilter(e *expr.Match) (truth, string) {
	info, ok := e.Info.(*xt.Unknown)
	if !ok || len(*info) == 0 {
		return maybe, "rpfilter …"
	}
	flags := (*info)[0]
	is, words := truthOf(w.passage.reverse || flags&rpfilterLoose != 0), "rpfilter"
	if flags&rpfilterLoose != 0 {
		words += " --loose"
	}
	if flags&rpfilterValidMark != 0 {
		words += " --validmark"
		if w.marks {
			is = maybe
		}
	}
	if flags&rpfilterInvert != 0 {
		words += " --invert"
		is = is.not()
	}
	return is, words
}

func verdictWords(v *expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictJump:
		return "jump " + v.Chain
	case expr.VerdictGoto:
		return "goto " + v.Chain
	}
	return "…"
}
