package nat

import "testing"

func TestTheWitnessSurvivesTheDaemon(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	if got := must(d.Witness()); got != (Witness{}) {
		t.Errorf("at first it is %+v, want nothing", got)
	}
	want := Witness{ID: [16]byte{1, 15: 2}, Count: 1 << 40, Block: 7}
	ok(t, d.PutWitness(want))
	ok(t, d.Close())
	if got := must(open(t, o).Witness()); got != want {
		t.Errorf("after a restart it is %+v, want %+v", got, want)
	}
}
