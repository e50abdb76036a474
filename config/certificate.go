package config

import (
	"net/netip"
	"strings"

	"ip6d/certificate"
)

// api reads where the API is offered to other computers: never without knowing who calls.
func (c *checker) api(a API) (netip.AddrPort, certificate.Paths) {
	if a == (API{}) {
		return netip.AddrPort{}, certificate.Paths{}
	}
	at, err := netip.ParseAddrPort(a.Address)
	if err != nil || at.Port() == 0 {
		c.wrong("api.address", a.Address, "must be an address of this server and a port, such as [fd00:6d::1]:6447")
	}
	return at, certificate.Paths{
		Certificate: c.file("api.certificate", a.Certificate, "this host's certificate, in PEM"),
		Key:         c.file("api.key", a.Key, "the key of api.certificate, in PEM"),
		Authorities: c.file("api.client_ca", a.ClientCA, "the certificates, in PEM, of the authorities whose clients may do everything"),
	}
}

// file is a path that must be there.
func (c *checker) file(field, text, what string) string {
	if text == "" {
		c.wrong(field, text, "must be the path of "+what)
		return ""
	}
	return c.path(field, text, "")
}

// storeFiles reads what this host proves itself with to the store, and knows the store by.
func (c *checker) storeFiles(s Store) certificate.Paths {
	var p certificate.Paths
	if s.Certificate != "" || s.Key != "" {
		p.Certificate = c.file("store.certificate", s.Certificate, "this host's certificate, in PEM")
		p.Key = c.file("store.key", s.Key, "the key of store.certificate, in PEM")
	}
	if s.CA != "" {
		p.Authorities = c.file("store.ca", s.CA, "the certificates, in PEM, of the authorities of the store's members")
	}
	encrypted := 0
	for _, e := range s.Endpoints {
		if strings.HasPrefix(e, "https://") {
			encrypted++
		}
	}
	if encrypted != 0 && encrypted != len(s.Endpoints) {
		c.wrong("store.endpoints", strings.Join(s.Endpoints, " "), "must be all https:// or all http://")
	}
	if p != (certificate.Paths{}) && encrypted == 0 {
		c.wrong("store.endpoints", strings.Join(s.Endpoints, " "), "must be https:// where store.ca, store.certificate or store.key is given")
	}
	return p
}
