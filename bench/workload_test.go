package bench

import (
	"testing"
	"time"
)

func TestWorkloadValidate(t *testing.T) {
	good := Workload{Rate: 100, Partitions: 1, Size: 100, Batch: 1, Acks: "all", Idempotent: true, Producers: 1, Compression: "none", Duration: time.Second}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Workload){
		"rate":        func(w *Workload) { w.Rate = -1 },
		"partitions":  func(w *Workload) { w.Partitions = 0 },
		"size":        func(w *Workload) { w.Size = headerBytes - 1 },
		"batch":       func(w *Workload) { w.Batch = 0 },
		"acks":        func(w *Workload) { w.Acks = "2" },
		"producers":   func(w *Workload) { w.Producers = producersMax + 1 },
		"compression": func(w *Workload) { w.Compression = "zip" },
		"duration":    func(w *Workload) { w.Duration = 0 },
		"warmup":      func(w *Workload) { w.Warmup = -1 },
		"random":      func(w *Workload) { w.RandomBytes = 1.1 },
		"batch bytes": func(w *Workload) { w.Batch = messageMaxDefault / w.Size },
	} {
		w := good
		change(&w)
		if w.Validate() == nil {
			t.Errorf("%s: %+v was accepted", name, w)
		}
	}
	leader := good
	leader.Acks = "1"
	if err := leader.Validate(); err != nil || leader.Idempotent {
		t.Errorf("acks 1: error %v, idempotent %v; want none and false", err, leader.Idempotent)
	}
	closed := good
	closed.Rate, closed.Partitions, closed.Batch = 0, 64, 16
	if err := closed.Validate(); err != nil || closed.InFlight != 10*64*16 {
		t.Errorf("closed loop: error %v, %d in flight; want none and %d", err, closed.InFlight, 10*64*16)
	}
}
