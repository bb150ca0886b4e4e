"""How clients speak to the server: each protocol turns a body into rows, and answers into one."""
