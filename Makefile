# Build and test. GOFLAGS links the io_uring backend (see docs/decisions.md); without
# it everything builds and runs too, on the epoll backend.
export GOFLAGS = -tags=uring -ldflags=-checklinkname=0

.PHONY: build run test acceptance bench vet clean

build:
	go build -o bin/millrace ./cmd/millrace

run: build
	bin/millrace serve

vet:
	gofmt -l $$(git ls-files '*.go') | tee /dev/stderr | wc -l | grep -qx 0
	go vet ./...

# A reduced case of everything, at most 20 minutes on two cores.
test: build
	sh testdata/test.sh short

# The full counts.
acceptance: build
	sh testdata/test.sh full

# Go benchmarks with allocations.
bench:
	go test -run '^$$' -bench . -benchmem ./ring/... ./netio ./engine/...

clean:
	rm -rf bin
