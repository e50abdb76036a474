package hwmap

import (
	"encoding/json"
	"math"
	"testing"
)

func TestARecordIsScannedAsItsJSONSays(t *testing.T) {
	for _, want := range []Machine{
		{},
		{Machine: 1, Name: "web1", Network: 7, Host: 2, Epoch: 3},
		{Machine: math.MaxUint32, Name: "a.b-c", Network: math.MaxUint32, Host: math.MaxUint32, MovingTo: 9, Epoch: math.MaxUint64, Destroyed: true},
	} {
		var got Machine
		if text := encode(want); !got.scan(text) || got != want {
			t.Errorf("%s: scanned %+v", text, got)
		}
	}
	for _, text := range []string{ // JSON that is read in the other way
		``, `{}`, `{"machine":1}`, `{"machine":1,"name":"\u0041","network":7,"host":2,"epoch":3}`, `{"machine":1,"name":"ü","network":7,"host":2,"epoch":3}`,
		`{"machine":1, "name":"a","network":7,"host":2,"epoch":3}`, `{"machine":1,"name":"a","network":7,"host":2,"epoch":3,"new":1}`,
		`{"machine":01,"name":"a","network":7,"host":2,"epoch":3}`, `{"machine":4294967296,"name":"a","network":7,"host":2,"epoch":3}`,
		`{"machine":1,"name":"a","network":7,"host":2,"epoch":18446744073709551616}`, `{"machine":1,"name":"a`, `{"machine":,"name":"a","network":7,"host":2,"epoch":3}`,
		`{"machine":1,"name":"a","network":7,"host":2,"epoch":3}}`,
	} {
		var got Machine
		if got.scan([]byte(text)) {
			t.Errorf("%s was scanned as %+v", text, got)
		}
	}
}

func FuzzScanAgreesWithJSON(f *testing.F) {
	f.Add(`{"machine":1,"name":"web1","network":7,"host":2,"moving_to":3,"epoch":3,"destroyed":true}`)
	f.Fuzz(func(t *testing.T, text string) {
		var got, want Machine
		if !got.scan([]byte(text)) {
			return
		}
		if err := json.Unmarshal([]byte(text), &want); err != nil || got != want {
			t.Errorf("%s: scanned %+v; JSON says %+v, %v", text, got, want, err)
		}
	})
}
