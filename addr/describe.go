package addr

// Description is all that an address says by itself.
type Description struct {
	Form Form // FormInvalid where Err is not nil
	Kind Kind // 0 where Err is not nil

	// Stable is the stable form: the address itself, or what it decodes to. The zero Stable where there is none, as for a
	// control address.
	Stable Stable

	// Host is the host that the address names; 0 for the stable address of a machine, which names none.
	Host Host

	// Err says why the address is invalid. It is a *FieldError.
	Err error
}

// Describe reads text, in any notation of RFC 4291 section 2.2, and says what it is. No text makes it panic.
func (p Plan) Describe(text string) Description {
	a, err := parse(text)
	if err != nil {
		return Description{Err: err}
	}
	switch p.Form(a) {
	case FormStable:
		s, err := p.StableFrom(a)
		if err != nil {
			return Description{Err: err}
		}
		d := Description{Form: FormStable, Kind: s.Kind(), Stable: s}
		if d.Kind == KindEndpoint {
			d.Host = Host(s.Machine())
		}
		return d
	case FormRouting:
		r, err := p.RoutingFrom(a)
		if err != nil {
			return Description{Err: err}
		}
		d := Description{Form: FormRouting, Kind: r.Kind(), Host: r.Host()}
		if d.Kind != KindControl {
			d.Stable = Stable{p.decode(r.w)}
		}
		return d
	}
	return Description{Err: p.formError(a, FormInvalid)}
}
