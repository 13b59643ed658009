"""A process in its surroundings. Server, client and commands use it; the trainer's commands, too.

addresses.py   addresses of this machine, Unix sockets and proxies
background.py  processes that compute only while nothing else wants a core
files.py       text files of users
memory_file.py files that exist in memory only
pem.py         certificates and keys in PEM
plain_text.py  text of others without control characters and markup, for terminals and logs
program.py     streams, signals and exit codes of a command line program
"""
