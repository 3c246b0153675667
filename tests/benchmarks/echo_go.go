// Echo benchmark: Go's net, with a goroutine for each connection.
package main

import (
	"net"
	"os"
	"runtime"
	"strconv"
)

func answer(connection net.Conn) {
	defer connection.Close()
	data := make([]byte, 64*1024)
	for {
		n, err := connection.Read(data)
		if err != nil {
			return
		}
		if _, err := connection.Write(data[:n]); err != nil {
			return
		}
	}
}

func main() {
	runtime.GOMAXPROCS(1) // all servers have one processor
	number, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	listener, err := net.FileListener(os.NewFile(uintptr(number), "listener"))
	if err != nil {
		panic(err)
	}
	for {
		connection, err := listener.Accept() // sets TCP_NODELAY
		if err != nil {
			panic(err)
		}
		go answer(connection)
	}
}
