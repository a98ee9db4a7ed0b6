"""mtunnel: moves running virtual machines between hypervisors, encrypted, over one port."""
