"""Cases of llama_server_tests.py; see harness.py."""
