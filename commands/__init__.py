"""The commands of `tintype` that speak to the REST service; also a plug-in of `openstack`."""
