"""Bill in Solvimon what Metronome meters."""
